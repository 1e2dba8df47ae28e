//! What the kinds of BGP share.

use crate::validate::{
    notation::digits,
    schema::{Check, Field, Object},
};

/// AS numbers in Calico's schemas have the format int32.
pub(super) const AS_NUMBER: &[Check] = &[Check::Range(0, 2_147_483_647)];

/// For which pools routes between nodes are written: Felix's and BIRD's configurations say it in the
/// same words.
pub(super) const CLUSTER_ROUTES: &[Check] =
    &[Check::OneOf(&["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"])];

/// Where a password is kept.
pub(super) static PASSWORD: Object = Object {
    fields: &[Field::object("secretKeyRef", &SECRET_KEY)
        .doc("The Secret that holds it, in the namespace of the agents.")
        .if_present()],
    rules: &[],
};

static SECRET_KEY: Object = Object {
    fields: &[
        Field::text("name").doc("The name of the Secret."),
        Field::text("key").doc("The key in the Secret.").always(),
        Field::bool("optional")
            .doc("Whether the peering goes on without a password when there is none.")
            .absent("the peering waits for it")
            .if_present(),
    ],
    rules: &[],
};

/// Whether the text is a BGP community: two numbers of 16 bits, or three of 32.
pub(super) fn is_community(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    match parts.len() {
        2 => parts.iter().all(|part| digits::<u16>(part).is_some()),
        3 => parts.iter().all(|part| digits::<u32>(part).is_some()),
        _ => false,
    }
}
