//! The name that many certificates share, as Calico's installations have them: it says what somebody is, not who.

use std::fmt;

use crate::Certificate;

/// A common name, a URI, or both, which must then both be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedName {
    common_name: Option<String>,
    uri: Option<String>,
}

/// The settings of one side: what they are called, and their values.
#[derive(Clone, Copy, Debug)]
pub struct SharedSettings<'a> {
    /// `--allow-shared-identity`.
    pub allow: bool,
    /// The variable of the common name, and its value.
    pub common_name: (&'static str, Option<&'a str>),
    /// The variable of the URI among the subject alternative names, and its value.
    pub uri: (&'static str, Option<&'a str>),
}

/// What the settings come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Every certificate must say whose it is.
    Refused,
    /// A name is set, as by a manifest that was taken over, and counts for nothing without the flag.
    Ignored(String),
    /// Whoever has a certificate with this name is believed.
    Allowed(SharedName),
}

/// The flag without a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--allow-shared-identity needs the name that the certificates share: set {0} or {1}")]
pub struct NoSharedName(&'static str, &'static str);

impl SharedSettings<'_> {
    /// What they come to. An empty value is none, as in Calico's manifests.
    pub fn read(self) -> Result<Shared, NoSharedName> {
        let value = |text: Option<&str>| text.filter(|it| !it.is_empty()).map(str::to_owned);
        let (common_name, uri) = (value(self.common_name.1), value(self.uri.1));
        let (cn_variable, uri_variable) = (self.common_name.0, self.uri.0);
        match (self.allow, common_name.is_some() || uri.is_some()) {
            (true, true) => Ok(Shared::Allowed(SharedName { common_name, uri })),
            (true, false) => Err(NoSharedName(cn_variable, uri_variable)),
            (false, false) => Ok(Shared::Refused),
            (false, true) => {
                let both = [(cn_variable, common_name), (uri_variable, uri)];
                let set = both.into_iter().filter_map(|(name, value)| value.map(|_| name));
                Ok(Shared::Ignored(format!(
                    "{} counts for nothing: a name that many certificates share doesn't say whose one is; \
                     --allow-shared-identity believes it all the same",
                    set.collect::<Vec<_>>().join(" and ")
                )))
            }
        }
    }
}

impl SharedName {
    /// Whether the certificate carries it.
    pub fn is_of(&self, certificate: &Certificate) -> bool {
        let common_name = self.common_name.as_ref();
        let uri = self.uri.as_ref();
        common_name.is_none_or(|name| certificate.common_names().contains(name))
            && uri.is_none_or(|uri| certificate.uris().contains(uri))
    }
}

/// For example `CN=typha-client`.
impl fmt::Display for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.common_name, &self.uri) {
            (Some(name), Some(uri)) => write!(f, "CN={name} and {uri}"),
            (Some(name), None) => write!(f, "CN={name}"),
            (None, uri) => f.write_str(uri.as_deref().unwrap_or_default()),
        }
    }
}
