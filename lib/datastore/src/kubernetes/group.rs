//! Which of Calico's two API groups a cluster uses.

use std::fmt;
use std::sync::OnceLock;

use super::connection::Connection;
use crate::error::Result;

/// An API group of Calico's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiGroup {
    /// `crd.projectcalico.org/v1`: custom resources of clusters that Calico installed.
    V1,
    /// `projectcalico.org/v3` as custom resources.
    V3,
}

impl ApiGroup {
    /// As in `apiVersion`: `projectcalico.org/v3`.
    pub fn api_version(self) -> &'static str {
        self.api().trim_start_matches("apis/")
    }

    /// As in paths.
    pub(super) fn api(self) -> &'static str {
        match self {
            Self::V1 => "apis/crd.projectcalico.org/v1",
            Self::V3 => "apis/projectcalico.org/v3",
        }
    }

    /// The group of this `apiVersion`.
    pub fn from_api_version(text: &str) -> Option<Self> {
        [Self::V1, Self::V3]
            .into_iter()
            .find(|group| group.api_version().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for ApiGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api_version())
    }
}

/// Found once; never both.
pub(super) struct Groups {
    found: OnceLock<ApiGroup>,
}

impl Groups {
    /// With a group that needn't be found.
    pub(super) fn new(given: Option<ApiGroup>) -> Self {
        let found = OnceLock::new();
        if let Some(group) = given {
            // It is empty.
            let _ = found.set(group);
        }
        Self { found }
    }

    /// The group; none: neither is served yet.
    ///
    /// Where both are, it is `crd.projectcalico.org/v1`, as in Calico: `projectcalico.org/v3` is then an aggregated
    /// API over it, as a rule (Calico: `libcalico-go/lib/backend/k8s`, `UsingV3CRDs`).
    pub(super) async fn current(&self, connection: &Connection) -> Result<Option<ApiGroup>> {
        if let Some(group) = self.found.get() {
            return Ok(Some(*group));
        }
        let groups = connection.get("list API groups", "/apis").await?;
        let names = groups["groups"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(|group| group["name"].as_str()).collect();
        let group = match (
            names.contains(&"crd.projectcalico.org"),
            names.contains(&"projectcalico.org"),
        ) {
            (true, both) => {
                if both {
                    tracing::info!(
                        "crd.projectcalico.org/v1 and projectcalico.org/v3 are served: the first is used; \
                         CALICO_API_GROUP says otherwise"
                    );
                }
                ApiGroup::V1
            }
            (false, true) => ApiGroup::V3,
            (false, false) => return Ok(None),
        };
        Ok(Some(*self.found.get_or_init(|| group)))
    }
}
