//! Whether an etcd's progress notifications can be trusted.

use etcd_client::Error as ClientError;
use tonic::Code;

use super::connection::Session;

/// Whether a progress notification never overtakes an event. Until 3.4.24 and 3.5.7 a requested one could (etcd
/// issue 15220); 3.6 never had the fault. A version that can't be learnt isn't trusted.
pub(super) async fn stays_behind_events(session: &Session) -> bool {
    match session.client.maintenance_client().status().await {
        Ok(status) => is_trusted(status.version()),
        // Only versions long after the fault hide theirs from users who aren't root.
        Err(ClientError::GRpcStatus(status)) => status.code() == Code::PermissionDenied,
        Err(_) => false,
    }
}

fn is_trusted(version: &str) -> bool {
    // Whatever follows a dash is a pre-release or a distribution's own.
    let numbers = version.split('-').next().unwrap_or_default();
    let mut numbers = numbers.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        newer => newer >= (3, 6, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::is_trusted;

    #[test]
    fn progress_is_trusted_from_3_4_25_and_3_5_8_on() {
        for (version, trusted) in [
            ("3.3.27", false),
            ("3.4.23", false),
            ("3.4.24", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.0", true),
            ("3.6.6-1ubuntu", true),
            ("4.0.0", true),
            ("", false),
            ("nightly", false),
        ] {
            assert_eq!(is_trusted(version), trusted, "{version:?}");
        }
    }
}
