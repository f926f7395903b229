//! What to do when an alert fires: the pages of `deploy/runbooks`, within the program. Anybody may read them: they say nothing
//! about an installation.

use std::{borrow::Cow, fmt::Write};

use axum::response::{Html, IntoResponse, Response};
use http::header;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};
use rust_embed::RustEmbed;

use crate::problem::Problem;

#[derive(RustEmbed)]
#[folder = "../../deploy/runbooks"]
struct Pages;

const INDEX: &str = "README";
const STYLE_NAME: &str = "style.css";
const STYLE: &str = "\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; }
main { max-width: 52rem; margin: 0 auto; padding: 1.5rem; }
nav { margin-bottom: 1.5rem; }
h1, h2 { line-height: 1.2; }
pre { padding: 0.75rem 1rem; overflow-x: auto; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: 6px; }
code { font: 0.875em/1.5 ui-monospace, monospace; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: 0.35rem 0.75rem; text-align: left; vertical-align: top; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
";

/// The page of an alert, as Markdown.
pub fn page(alert: &str) -> Option<String> {
    file(alert).filter(|_| alert != INDEX)
}

fn file(name: &str) -> Option<String> {
    let file =
        Pages::get(&format!("{name}.md")).filter(|_| name.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    Some(String::from_utf8_lossy(&file.data).into_owned())
}

/// Alerts by name, with one line about each, as the index has them.
pub fn all() -> Vec<(String, String)> {
    let Some(index) = Pages::get(&format!("{INDEX}.md")) else { return Vec::new() };
    let mut all: Vec<(String, String)> =
        String::from_utf8_lossy(&index.data).lines().filter_map(row).collect();
    all.sort();
    all
}

/// `| [NAME](NAME.md) | severity | what it says |`
fn row(line: &str) -> Option<(String, String)> {
    let mut cells = line.strip_prefix("| [")?.split(" | ");
    let name = cells.next()?.split(']').next()?;
    Some((name.to_owned(), cells.nth(1)?.trim_end_matches(" |").to_owned()))
}

/// The alert whose name is most like this one, if any is.
pub fn nearest(name: &str) -> Option<String> {
    let wanted = name.to_lowercase();
    let distance = |(known, _): &(String, String)| {
        let known = known.to_lowercase();
        let short = known.strip_prefix("trunkline").unwrap_or(&known);
        strsim::damerau_levenshtein(&wanted, &known).min(strsim::damerau_levenshtein(&wanted, short))
    };
    let found = all().into_iter().map(|one| (distance(&one), one.0)).min()?;
    (found.0 * 3 <= name.len()).then_some(found.1)
}

/// A page for browsers, by the alert's name with or without `.md`; `None`: the index.
pub(crate) fn serve(name: Option<&str>) -> Response {
    if name == Some(STYLE_NAME) {
        return ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response();
    }
    let name = name.unwrap_or(INDEX);
    let name = name.strip_suffix(".md").unwrap_or(name);
    match file(name) {
        Some(text) => Html(document(name, &text)).into_response(),
        None => Problem::not_found("There is no such runbook: see /runbooks/.").into_response(),
    }
}

fn document(name: &str, markdown: &str) -> String {
    let (title, back) = match name {
        INDEX => ("Runbooks".into(), ""),
        name => (Cow::from(format!("{name} – runbook")), "<nav><a href=\"./\">All runbooks</a></nav>"),
    };
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title}</title><link rel=\"stylesheet\" href=\"{STYLE_NAME}\">\
         <main>{back}"
    );
    let mut beside = false;
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES).filter(|event| match event {
        // What lies beside the pages in the sources is not served: its name stays.
        Event::Start(Tag::Link { dest_url, .. }) if dest_url.starts_with("..") => {
            beside = true;
            false
        }
        Event::End(TagEnd::Link) if beside => {
            beside = false;
            false
        }
        _ => true,
    });
    html::push_html(&mut out, events);
    out.push_str("</main></html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_listed_and_a_slip_of_the_pen_finds_it() {
        let listed: Vec<String> = all().into_iter().map(|(name, _)| name).collect();
        let mut there: Vec<String> =
            Pages::iter().filter_map(|path| path.strip_suffix(".md").map(str::to_owned)).collect();
        there.retain(|name| name != INDEX);
        there.sort();
        assert_eq!(listed, there);
        assert!(all().iter().all(|(_, about)| about.len() > 10 && !about.contains('|')), "{:?}", all());
        assert!(page("TrunklineNodeAbsent").unwrap().starts_with("# TrunklineNodeAbsent\n"));
        assert_eq!((page("README"), page("../README"), page("")), (None, None, None));
        for slip in ["TrunklineNodeAbsnt", "nodeabsent", "NodeAbsent"] {
            assert_eq!(nearest(slip).as_deref(), Some("TrunklineNodeAbsent"), "{slip}");
        }
        assert_eq!(nearest("coffee"), None);
    }

    #[test]
    fn links_lead_to_pages_or_nowhere() {
        for (name, _) in all() {
            let html = document(&name, &page(&name).unwrap());
            let links: Vec<&str> =
                html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            for link in links {
                let known = link == "./" || link == STYLE_NAME || link.starts_with("https://");
                let page = link.strip_suffix(".md").is_some_and(|name| page(name).is_some());
                assert!(known || page, "{name} leads to {link}");
            }
            assert_eq!(html.matches("<a ").count(), html.matches("</a>").count(), "{name}");
        }
    }
}
