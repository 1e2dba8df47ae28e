//! Whose a token is: the API server reviews it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use super::connection::Connection;
use crate::config::KubernetesConfig;
use crate::error::Result;

/// The claim of a projected token since Kubernetes 1.32: the node of the pod that it was made for.
const NODE: &str = "authentication.kubernetes.io/node-name";
/// A token without a time, which Kubernetes doesn't make any more, is believed for so long.
const UNTIMED: Duration = Duration::from_hours(1);
/// A token isn't believed to its last second: clocks differ.
const MARGIN: Duration = Duration::from_secs(30);

/// Asks an API server about tokens.
pub struct Tokens {
    connection: Connection,
    audience: &'static str,
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// For example `system:serviceaccount:kube-system:bulrush-node-agent`.
    pub user: String,
    /// The node of the pod that it was made for; none: it was made for no pod.
    pub node: Option<String>,
    /// From when on it must be shown again: shortly before it expires.
    pub until: Instant,
}

impl Tokens {
    /// For tokens of this audience.
    pub async fn connect(config: &KubernetesConfig, audience: &'static str) -> Result<Self> {
        Ok(Self { connection: Connection::open(config).await?, audience })
    }

    /// Whose the token is, or why nobody's; the error: it can't be told now.
    pub async fn review(&self, token: &str) -> Result<Result<Holder, String>> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [self.audience] },
        });
        let operation = "create tokenreview";
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = self.connection.request(operation, Method::POST, path, Some(&review)).await?;
        let review = answer.map_err(|refusal| self.connection.refused(operation, refusal))?;
        Ok(holder(self.audience, token, &review["status"], now()))
    }
}

/// What a review says of a token; `now` is the time since 1970.
fn holder(audience: &str, token: &str, status: &Value, now: Duration) -> Result<Holder, String> {
    let audiences = status["audiences"].as_array().into_iter().flatten();
    if status["authenticated"] != json!(true) || !audiences.into_iter().any(|it| it == audience) {
        return Err(format!(
            "the API server doesn't believe the token: it has expired, or isn't of audience {audience}"
        ));
    }
    let left = match expiry(token) {
        Some(at) => at.saturating_sub(now),
        None => UNTIMED,
    };
    let user = &status["user"];
    let node = user["extra"][NODE][0].as_str().map(str::to_owned);
    Ok(Holder {
        user: user["username"].as_str().unwrap_or_default().to_owned(),
        node,
        until: Instant::now() + left.saturating_sub(MARGIN.min(left / 2)),
    })
}

/// When a token expires, as it says itself: the API server has checked that it says the truth.
fn expiry(token: &str) -> Option<Duration> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    claims["exp"].as_u64().map(Duration::from_secs)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &Value) -> String {
        format!("head.{}.signature", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn status() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["bulrush-typha"],
            "user": { "username": "system:serviceaccount:net:agent", "extra": { NODE: ["node-1"] } },
        })
    }

    #[test]
    fn a_token_is_believed_until_shortly_before_it_expires() {
        let now = Duration::from_secs(1000);
        let left = |token: &str| {
            let begin = Instant::now();
            let holder = holder("bulrush-typha", token, &status(), now).unwrap();
            assert_eq!(holder.node.as_deref(), Some("node-1"));
            (holder.until - begin).as_secs()
        };
        assert_eq!(left(&token(&json!({ "exp": 4600 }))), 3570);
        assert_eq!(left(&token(&json!({ "exp": 1020 }))), 10);
        assert_eq!(left(&token(&json!({ "exp": 900 }))), 0);
        assert_eq!(left(&token(&json!({}))), 3570);
        assert_eq!(left("no token of this form"), 3570);
    }

    #[test]
    fn who_isnt_authenticated_for_the_audience_is_nobody() {
        let review = |status: &Value| holder("bulrush-typha", "t", status, Duration::ZERO);
        assert!(review(&status()).is_ok());
        for (field, value) in [
            ("authenticated", json!(false)),
            ("audiences", json!(["api"])),
            ("audiences", json!(null)),
        ] {
            let mut status = status();
            status[field] = value;
            assert!(review(&status).unwrap_err().contains("isn't of audience bulrush-typha"));
        }
        assert!(review(&Value::Null).is_err());
    }
}
