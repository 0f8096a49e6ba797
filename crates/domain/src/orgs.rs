//! Organisations. Nothing crosses from one to another. They are resources of the
//! installation's own organisation, whose owner makes them.

use serde::{Deserialize, Serialize};

use crate::ids::OrgId;
use crate::limits::Tier;
use crate::log::EntityKind;
use crate::resources::{Entity, Resource};

/// The installation's own organisation. Its id is fixed, so that of two
/// processes that start at once on one database only one makes it.
pub const INSTALLATION_ORG: OrgId =
    OrgId::from_bytes([0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

/// An organisation.
pub type Org = Entity<OrgBody>;

/// What an organisation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgBody {
    /// What people call it; need not be unique.
    pub name: String,
    /// How much it may ask for.
    #[serde(default)]
    pub tier: Tier,
}

impl Resource for OrgBody {
    type Id = OrgId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Org;
    // 2: its tier.
    const SHAPE: i64 = 2;

    fn also(&self, _id: OrgId) {}
}
