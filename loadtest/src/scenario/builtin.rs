//! The scenarios that come with the program; each is also a file to start from.

/// Name and text of each.
pub const BUILTIN: &[(&str, &str)] = &[
    ("steady", include_str!("../../scenarios/steady.yaml")),
    ("spike", include_str!("../../scenarios/spike.yaml")),
    ("ramp-until-failure", include_str!("../../scenarios/ramp-until-failure.yaml")),
    ("soak", include_str!("../../scenarios/soak.yaml")),
    ("fault-in-the-middle", include_str!("../../scenarios/fault-in-the-middle.yaml")),
    ("upgrade-in-the-middle", include_str!("../../scenarios/upgrade-in-the-middle.yaml")),
    ("cluster-fault", include_str!("../../scenarios/cluster-fault.yaml")),
    ("cluster-upgrade", include_str!("../../scenarios/cluster-upgrade.yaml")),
    ("conversations", include_str!("../../scenarios/conversations.yaml")),
    ("menu", include_str!("../../scenarios/menu.yaml")),
    ("transfers", include_str!("../../scenarios/transfers.yaml")),
];

/// The text of one.
pub fn builtin(name: &str) -> Option<&'static str> {
    BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    /// Every scenario that is shipped can be read, says what it is for, and is called what its file is called.
    #[test]
    fn all_can_be_read() {
        for (name, text) in BUILTIN {
            let scenario = Scenario::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, *name);
            assert!(!scenario.about.is_empty(), "{name} does not say what it is for");
        }
    }

    #[test]
    fn every_file_is_in_the_program() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let name = name.strip_suffix(".yaml").unwrap();
            assert!(builtin(name).is_some(), "{name} is not in BUILTIN");
        }
    }
}
