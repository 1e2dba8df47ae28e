//! What an error of etcd's client means, in our terms.

use std::error::Error as _;

use etcd_client::Error as ClientError;
use tonic::{Code, Status};

use super::connection::name;
use crate::config::EtcdConfig;
use crate::error::Error;

/// Whether the request can't have reached the server.
pub(super) fn never_sent(error: &ClientError) -> bool {
    let ClientError::GRpcStatus(status) = error else { return false };
    causes(status).any(<dyn std::error::Error>::is::<tonic::ConnectError>)
}

/// Whether etcd says that a revision is gone.
pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::Refused { reason, .. } if reason.contains("has been compacted"))
}

/// Whether a user was given to an etcd that has none.
pub(super) fn has_no_users(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}

/// In our terms.
pub(super) fn classify(endpoint: &str, config: &EtcdConfig, error: &ClientError) -> Error {
    let store = name(endpoint);
    let ClientError::GRpcStatus(status) = error else {
        return Error::Unavailable { store, reason: with_cause(error) };
    };
    let message = status.message();
    if let Some(reason) = denial(message, config) {
        return Error::Denied { store, reason };
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => {
            Error::Denied { store, reason: message.to_owned() }
        }
        Code::ResourceExhausted if message.contains("too many requests") => {
            Error::Unavailable { store, reason: message.to_owned() }
        }
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::Unimplemented => Error::Refused { store, reason: refusal(message) },
        _ => Error::Unavailable { store, reason: reason(status) },
    }
}

/// What etcd says of users and their rights, with the way out; none if it is about something else.
pub(super) fn denial(message: &str, config: &EtcdConfig) -> Option<String> {
    let user = config.user.as_ref().map_or("nobody", |(name, _)| name);
    Some(if message.contains("permission denied") {
        format!(
            "user {user:?} may not do this; give it a role that may read and write /calico/ and /bulrush/ \
             (etcdctl role grant-permission ROLE readwrite /calico/ --prefix=true)"
        )
    } else if message.contains("user name is empty") {
        "it wants a user; set ETCD_USERNAME and ETCD_PASSWORD".to_owned()
    } else if message.contains("authentication failed") {
        format!(
            "user {user:?} doesn't exist, or the password is wrong; check ETCD_USERNAME and ETCD_PASSWORD"
        )
    } else {
        return None;
    })
}

fn refusal(message: &str) -> String {
    let way_out = if message.contains("database space exceeded") {
        "; compact and defragment it, then `etcdctl alarm disarm`, or raise --quota-backend-bytes"
    } else if message.contains("too many operations") {
        "; write fewer keys at once, or raise --max-txn-ops"
    } else if message.contains("request is too large") {
        "; raise --max-request-bytes"
    } else {
        ""
    };
    format!("{message}{way_out}")
}

fn reason(status: &Status) -> String {
    let last = causes(status).last().map(ToString::to_string).unwrap_or_default();
    if last.is_empty() || status.message().contains(&last) {
        status.message().to_owned()
    } else {
        format!("{}: {last}", status.message())
    }
}

/// With the cause of a transport error, which it keeps to itself; the others have none.
fn with_cause(error: &ClientError) -> String {
    match error {
        ClientError::TransportError(transport) => match transport.source() {
            Some(cause) => format!("{transport}: {cause}"),
            None => transport.to_string(),
        },
        other => other.to_string(),
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}
