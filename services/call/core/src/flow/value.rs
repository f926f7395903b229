//! Texts with variables, and the limits of attributes.

/// Attributes of a call.
pub const MAX_ATTRIBUTES: usize = 32;
/// Characters of an attribute's name.
pub const MAX_ATTRIBUTE_NAME: usize = 64;
/// Characters of an attribute's value; longer ones are cut.
pub const MAX_ATTRIBUTE_VALUE: usize = 256;

/// A text in which `${name}` stands for a variable. `$$` is a `$`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(String),
}

impl Text {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let (name, after) = after.split_once('}').ok_or("\"${\" is not closed by \"}\"")?;
                if !is_name(name) {
                    return Err(format!("${{{name}}} is not a variable: use 1 to 64 of a-z, 0-9 and '_'"));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Variable(name.to_owned()));
                rest = after;
            } else {
                return Err(
                    "a single \"$\": write \"$$\" for the sign or \"${name}\" for a variable".to_owned()
                );
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// With the variables' values, cut at [`MAX_ATTRIBUTE_VALUE`] characters. Unknown ones are empty.
    pub fn render<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Variable(name) => out.push_str(lookup(name).unwrap_or_default()),
            }
        }
        match out.char_indices().nth(MAX_ATTRIBUTE_VALUE) {
            Some((at, _)) => out[..at].to_owned(),
            None => out,
        }
    }
}

/// Names of variables and attributes.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_ATTRIBUTE_NAME).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_values_cut() {
        let text = Text::parse("no. ${n}, $$5 ${x}").unwrap();
        assert_eq!(text.render(|name| (name == "n").then_some("7")), "no. 7, $5 ");
        let long = "ä".repeat(300);
        assert_eq!(Text::parse("${n}").unwrap().render(|_| Some(&long)).chars().count(), MAX_ATTRIBUTE_VALUE);
        assert!(Text::parse("${n").is_err() && Text::parse("$n").is_err() && Text::parse("${N}").is_err());
    }
}
