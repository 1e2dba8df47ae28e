//! Configuration objects: kept as JSON, read where they are used.

use serde_json::{Map, Value};

use super::{Invalid, read::Fields};

/// A spec as it is stored.
pub type SpecMap = Map<String, Value>;

/// `FelixConfiguration`: hundreds of fields, all kept, those in use read by [`Self::text`],
/// [`Self::flag`] and [`Self::number`]. A field of another type reads as absent: its default holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FelixConfiguration {
    /// All fields.
    pub spec: SpecMap,
}

impl FelixConfiguration {
    pub(super) fn read(spec: Fields<'_>) -> Self {
        Self { spec: spec.map().cloned().unwrap_or_default() }
    }

    /// A field that holds text, such as `routeSource` or `nftablesMode`.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.spec.get(field)?.as_str()
    }

    /// A field that holds true or false, such as `wireguardEnabled`.
    pub fn flag(&self, field: &str) -> Option<bool> {
        self.spec.get(field)?.as_bool()
    }

    /// A field that holds a whole number, such as `vxlanVNI`.
    pub fn number(&self, field: &str) -> Option<i64> {
        self.spec.get(field)?.as_i64()
    }
}

/// `ClusterInformation`: who this cluster is, and whether its data may be acted on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClusterInformation {
    /// Identity of the cluster's data.
    pub cluster_guid: String,
    /// For example `k8s,bgp`.
    pub cluster_type: String,
    /// The version that wrote the data.
    pub calico_version: String,
    /// False while the datastore is locked, for example during a migration.
    pub datastore_ready: Option<bool>,
}

impl ClusterInformation {
    pub(super) fn read(spec: Fields<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            cluster_guid: spec.str("clusterGUID")?.to_owned(),
            cluster_type: spec.str("clusterType")?.to_owned(),
            calico_version: spec.str("calicoVersion")?.to_owned(),
            datastore_ready: spec.flag("datastoreReady")?,
        })
    }
}
