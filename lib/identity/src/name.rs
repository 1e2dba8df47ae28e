//! The identities, as text: `bulrush://node/<name>` and the others.

use std::{fmt, str::FromStr};

/// What all identities begin with.
const SCHEME: &str = "bulrush://";

/// What a certificate says that its holder is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// The agent of this node: it gets this node's view.
    Node(String),
    /// May read everything: the full view, and every node's as an observer.
    Full,
    /// A typha.
    Server,
}

/// Text that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// Not one of the three forms.
    #[error(
        "{0:?} is no identity: there are bulrush://node/<name>, bulrush://role/full and \
         bulrush://server/typha"
    )]
    Form(String),
    /// A node's name with other characters would read differently in a URI.
    #[error(
        "{0:?} is no name of a node: 1 to 253 letters, digits, \".\", \"-\" and \"_\", the first a \
         letter or a digit"
    )]
    Node(String),
}

impl Identity {
    /// The agent of the node of this name.
    pub fn node(name: &str) -> Result<Self, NoIdentity> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let good = name.len() <= 253
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(plain);
        if good { Ok(Self::Node(name.into())) } else { Err(NoIdentity::Node(name.into())) }
    }
}

impl FromStr for Identity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        let form = || NoIdentity::Form(text.to_owned());
        let path = text.strip_prefix(SCHEME).ok_or_else(form)?;
        match path.split_once('/').ok_or_else(form)? {
            ("node", name) => Self::node(name),
            ("role", "full") => Ok(Self::Full),
            ("server", "typha") => Ok(Self::Server),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Full => f.write_str("role/full"),
            Self::Server => f.write_str("server/typha"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written_alike() {
        for text in
            ["bulrush://node/worker-1.example", "bulrush://role/full", "bulrush://server/typha"]
        {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_only_resembles_an_identity_is_none() {
        for text in [
            "",
            "bulrush://",
            "bulrush://node",
            "bulrush://node/",
            "bulrush://node/a/b",
            "bulrush://node/a%2fb",
            "bulrush://node/a b",
            "bulrush://node/.",
            "bulrush://node/\u{430}",
            "bulrush://role/admin",
            "bulrush://role/full/",
            "bulrush://server/other",
            "BULRUSH://role/full",
            "spiffe://node/a",
            " bulrush://role/full",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }
}
