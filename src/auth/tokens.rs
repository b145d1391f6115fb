//! Tokens: static ones from a file, and JSON Web Tokens with the keys that verify them and the claims that they carry.

pub(crate) mod claims;
#[cfg(test)]
mod every_algorithm;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod key;
pub(crate) mod static_tokens;
