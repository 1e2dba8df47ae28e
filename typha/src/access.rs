//! Who may see what: the credential of a connection against the hello that came over it. Pure.

use identity::{Certificate, Identity};
use proto::v1::{AgentHello, View};

/// What is known of who is at the other end.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// In the clear: what the hello says is believed. Only on loopback, or when asked for by name.
    None,
    /// A certificate of a CA that this server believes.
    Certificate(Certificate),
}

/// Whether the credential covers what the hello asks for; else what is wrong, and the way out.
pub(crate) fn check(credential: &Credential, hello: &AgentHello) -> Result<(), String> {
    let Credential::Certificate(certificate) = credential else { return Ok(()) };
    if certificate.identities.is_empty() {
        return Err(format!(
            "the certificate, {certificate}, says nothing of whose it is: `bulrush certs issue` makes \
             one that does"
        ));
    }
    if hello.view == i32::from(View::Full) || hello.observer {
        if certificate.is(&Identity::Full) {
            return Ok(());
        }
        let what = if hello.observer { "an observer" } else { "the full view" };
        return Err(format!(
            "{what} needs a certificate with {}, and this one has {}: `bulrush certs issue --role \
             full` makes one",
            Identity::Full,
            certificate.says()
        ));
    }
    if certificate.is(&Identity::Node(hello.node.clone())) {
        return Ok(());
    }
    Err(format!(
        "the hello is of node {:?}, and the certificate of {}: give the agent its own node's \
         certificate, or the name that is in this one",
        hello.node,
        certificate.says()
    ))
}
