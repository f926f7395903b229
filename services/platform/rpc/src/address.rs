//! Conversions between the typed addresses of `trunkline-types` and their wire form.

use trunkline_proto::common::v1 as pb;
use trunkline_types::{EntityAddress, EntityKind, NodeId};

/// Why a wire address means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A oneof or an enum field was not set, or is newer than this version.
    #[error("address: {0} is missing or unknown")]
    Missing(&'static str),
    /// The tenant is not a name.
    #[error("address: {0}")]
    Tenant(#[from] trunkline_types::IdError),
}

/// The wire address of an entity.
pub fn entity(address: &EntityAddress) -> pb::Address {
    pb::Address { target: Some(pb::address::Target::Entity(to_proto(address))) }
}

/// The wire address of a role on a node.
pub fn node(node: &NodeId, role: pb::Role) -> pb::Address {
    let node = pb::NodeAddress { node: node.as_str().to_owned(), role: role.into() };
    pb::Address { target: Some(pb::address::Target::Node(node)) }
}

/// To the wire.
pub fn to_proto(address: &EntityAddress) -> pb::EntityAddress {
    let kind = match address.kind {
        EntityKind::Call => pb::EntityKind::Call,
        EntityKind::Queue => pb::EntityKind::Queue,
        EntityKind::Agent => pb::EntityKind::Agent,
        EntityKind::Telephone => pb::EntityKind::Telephone,
    };
    pb::EntityAddress {
        kind: kind.into(),
        tenant: address.tenant.as_str().to_owned(),
        id: address.id.clone(),
    }
}

/// From the wire.
pub fn from_proto(address: &pb::EntityAddress) -> Result<EntityAddress, AddressError> {
    let kind = match address.kind() {
        pb::EntityKind::Call => EntityKind::Call,
        pb::EntityKind::Queue => EntityKind::Queue,
        pb::EntityKind::Agent => EntityKind::Agent,
        pb::EntityKind::Telephone => EntityKind::Telephone,
        pb::EntityKind::Unspecified => return Err(AddressError::Missing("entity kind")),
    };
    Ok(EntityAddress { kind, tenant: address.tenant.parse()?, id: address.id.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_wire() {
        let tenant = "default".parse().unwrap();
        let queue = EntityAddress::queue(&tenant, &"support".parse().unwrap());
        assert_eq!(from_proto(&to_proto(&queue)), Ok(queue));
        assert!(from_proto(&pb::EntityAddress::default()).is_err());
    }
}
