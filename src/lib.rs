//! remedyd, by floors: [`model`] (nouns), [`machine`] (rules), [`wire`] (JSON).

pub mod machine;
pub mod model;
pub mod wire;
