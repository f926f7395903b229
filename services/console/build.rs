//! The web clients are embedded from `services/web/dist`; without Node nobody has built them, so the folder is made
//! here and the server says how to build them.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let dist = Path::new("../web/dist");
    fs::create_dir_all(dist)?;
    println!("cargo:rerun-if-changed={}", dist.display());
    Ok(())
}
