//! Who may see what: the credential of a connection against the hello that came over it. Pure.

use datastore::kubernetes::Holder;
use identity::{Certificate, Identity, SharedName};
use proto::v1::{AgentHello, View};

/// What is known of who is at the other end.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// In the clear: what the hello says is believed. Only on loopback, or when asked for by name.
    None,
    /// A certificate of a CA that this server believes.
    Certificate(Certificate),
    /// Over TLS, without a certificate: a token must say who it is.
    Absent,
    /// The token of a service account, which the API server believes.
    Token(Holder),
}

/// Whether the credential covers what the hello asks for; else what is wrong, and the way out.
/// A certificate that says of nobody whose it is, but carries the `shared` name, is that of any node's agent.
pub(crate) fn check(
    credential: &Credential,
    hello: &AgentHello,
    shared: Option<&SharedName>,
) -> Result<(), String> {
    let certificate = match credential {
        Credential::None => return Ok(()),
        Credential::Certificate(certificate) => certificate,
        Credential::Absent => {
            return Err(
                "it has neither a certificate nor a token: give the agent --cert, --key and \
                        --ca, or --token-file and --ca"
                    .into(),
            );
        }
        Credential::Token(holder) => return check_token(holder, hello),
    };
    let sees_all = hello.view == i32::from(View::Full) || hello.observer;
    if certificate.identities.is_empty() {
        match shared {
            Some(shared) if shared.is_of(certificate) && !sees_all => return Ok(()),
            Some(shared) if shared.is_of(certificate) => {}
            Some(shared) => {
                return Err(format!(
                    "the certificate, {certificate}, neither says whose it is nor has the shared name {shared}"
                ));
            }
            None => {
                return Err(format!(
                    "the certificate, {certificate}, says nothing of whose it is: `bulrush certs issue` makes \
                     one that does"
                ));
            }
        }
    }
    if sees_all {
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

/// A token is of one node, and for its view alone.
fn check_token(holder: &Holder, hello: &AgentHello) -> Result<(), String> {
    let Holder { user, node, .. } = holder;
    if hello.view == i32::from(View::Full) || hello.observer {
        return Err(format!(
            "the token of {user} is for a node's view: whoever sees more needs a certificate with {}",
            Identity::Full
        ));
    }
    match node {
        Some(node) if *node == hello.node => Ok(()),
        Some(node) => Err(format!(
            "the hello is of node {:?}, and the token of {user} of a pod on node {node:?}: give the \
             agent the name of its node",
            hello.node
        )),
        None => Err(format!(
            "the token of {user} names no node: it must be projected into a pod, by Kubernetes 1.32 or \
             newer"
        )),
    }
}
