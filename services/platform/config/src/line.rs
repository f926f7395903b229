//! Finds the line of a key in YAML's block style; best effort, for error messages only.

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The line (from 1) of the deepest part of `path` that is found.
pub(crate) fn line_of(text: &str, path: &[Step]) -> Option<usize> {
    // "- " opens an item whose content is indented by it: seen as blanks, it is a mapping like any other.
    let mut lines: Vec<(usize, String)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| {
            !matches!(line.trim_start().chars().next(), None | Some('#')) && line.trim() != "---"
        })
        .map(|(n, line)| (n + 1, line.to_owned()))
        .collect();
    let mut found = None;
    for step in path {
        // Nothing below it: a value in YAML's flow style stands on its key's line.
        let Some(indent) = lines.iter().map(|(_, line)| indent(line)).min() else { return found };
        let at = match step {
            Step::Key(key) => lines.iter().position(|(_, line)| indent_is(line, indent) && names(line, key)),
            Step::Index(index) => {
                let items = lines
                    .iter()
                    .enumerate()
                    .filter(|(_, (_, line))| indent_is(line, indent) && line.trim_start().starts_with('-'));
                items.map(|(at, _)| at).nth(*index)
            }
        };
        let Some(at) = at else { return found };
        found = Some(lines[at].0);
        let mut inside = Vec::new();
        if let (Step::Index(_), (n, line)) = (step, &lines[at]) {
            inside.push((*n, line.replacen('-', " ", 1)));
        }
        // A sequence may stand at the indentation of its key.
        let deeper = |line: &str| {
            crate::line::indent(line) > indent
                || (matches!(step, Step::Key(_))
                    && indent_is(line, indent)
                    && line.trim_start().starts_with("- "))
        };
        inside.extend(lines[at + 1..].iter().take_while(|(_, line)| deeper(line)).cloned());
        lines = inside;
    }
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn indent_is(line: &str, wanted: usize) -> bool {
    indent(line) == wanted
}

fn names(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    let bare = line.strip_prefix(key).or_else(|| {
        let quote = line.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        line.strip_prefix(quote)?.strip_prefix(key)?.strip_prefix(quote)
    });
    bare.is_some_and(|rest| rest.trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# a comment\nlog: json\n\nmedia:\n  rtp:\n    ports: 40000-40999\n  \"quoted\": 1\ntrunks:\n- name: a\n  host: x\n- name: b\n  host: y\nlisten:\n  - 1\n  - 2\n";

    #[test]
    fn keys_and_items_are_found() {
        let key = |k: &str| Step::Key(k.to_owned());
        let line = |path: &[Step]| line_of(TEXT, path);
        assert_eq!(line(&[key("log")]), Some(2));
        assert_eq!(line(&[key("media"), key("rtp"), key("ports")]), Some(6));
        assert_eq!(line(&[key("media"), key("quoted")]), Some(7));
        assert_eq!(line(&[key("trunks"), Step::Index(1), key("host")]), Some(12));
        assert_eq!(line(&[key("listen"), Step::Index(1)]), Some(15));
        assert_eq!(line(&[key("media"), key("absent")]), Some(4), "the nearest that is there");
        assert_eq!(line(&[key("absent")]), None);
        let flow = "log: json\nnode: { name: n1, rolles: [edge] }\nsip:\n  listen: x\n";
        assert_eq!(line_of(flow, &[key("node"), key("rolles")]), Some(2), "flow style");
    }
}
