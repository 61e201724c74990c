//! Prints the public API that a file of rustdoc's JSON describes, an item a line, sorted by path.
//!
//! It leaves out auto traits, blanket implementations and the methods of traits that are usually derived. `tests/suite/surface.rs` asserts `Send` and `Sync`.

use std::error::Error;
use std::path::PathBuf;

/// Parts of the lines that follow from the `impl` above them.
const IMPLIED: [&str; 5] = [
    "::StructuralPartialEq for ",
    "::clone(&self)",
    "::eq(&self, ",
    "::hash<__H",
    "::fmt(&self, &mut core::fmt::Formatter<'_>)",
];

fn main() -> Result<(), Box<dyn Error>> {
    let json = (std::env::args_os().nth(1)).ok_or("usage: public-api-listing JSON")?;
    let api = public_api::Builder::from_rustdoc_json(PathBuf::from(json))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()?;
    let lines = api.items().map(ToString::to_string);
    for line in lines.filter(|line| !IMPLIED.iter().any(|implied| line.contains(implied))) {
        println!("{line}");
    }
    Ok(())
}
