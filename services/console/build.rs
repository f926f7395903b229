//! The web clients are embedded from `services/web/dist`; without Node nobody has built them, so the folder is made
//! here, cargo warns of it and the server says how to build them.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let dist = Path::new("../web/dist");
    fs::create_dir_all(dist)?;
    if fs::read_dir(dist)?.next().is_none() {
        println!(
            "cargo:warning=services/web/dist is empty: this program has no pages; `cargo xtask web` builds them"
        );
    }
    println!("cargo:rerun-if-changed={}", dist.display());
    Ok(())
}
