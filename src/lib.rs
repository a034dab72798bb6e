//! remedyd: drives every approved remediation of a security incident to done, refuses to close the report
//! until it is, says exactly what is in the way, and loses nothing.

pub mod machine;
pub mod model;
pub mod store;
