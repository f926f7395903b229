//! Which telephones are registered, in the whole cluster: each node that keeps accounts tells its own.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::task::JoinSet;
use tonic::{Request, Status};
use trunkline_cluster::{Placement, Role};
use trunkline_proto::{
    cluster::v1::{ListTelephonesRequest, ListTelephonesResponse, admin_client::AdminClient},
    registrar::v1::TelephoneBinding,
};
use trunkline_registrar::{Registrar, Seen};
use trunkline_rpc::Channels;
use trunkline_types::{EntityAddress, NodeId};

use super::ground::Ground;

/// Accounts on a page: an answer has to stay below what gRPC takes.
const PAGE: usize = 500;
/// A member tells its own within this.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks all members.
#[derive(Clone)]
pub(crate) struct Telephones {
    /// This node's own, when it keeps any.
    registrar: Arc<OnceLock<Registrar>>,
    placement: Arc<dyn Placement>,
    channels: Channels,
}

impl Telephones {
    pub(super) fn new(ground: &Ground) -> Self {
        let (placement, channels) = (ground.placement.clone(), ground.channels.clone());
        Self { registrar: Arc::default(), placement, channels }
    }

    /// The room of this node is there.
    pub fn attach(&self, registrar: Registrar) {
        // Once: a node has its rooms for as long as it lives.
        let _ = self.registrar.set(registrar);
    }

    /// A page of them.
    pub async fn list(&self, asked: ListTelephonesRequest) -> Result<ListTelephonesResponse, Status> {
        if asked.local {
            return self.local(&asked);
        }
        let mut answers = JoinSet::new();
        for member in self.placement.nodes().iter().filter(|member| member.has(Role::Acd)) {
            let (node, this, asked) = (member.identity.id.clone(), self.clone(), asked.clone());
            answers.spawn(async move {
                let told = tokio::time::timeout(PATIENCE, this.of(&node, asked)).await;
                told.ok().and_then(Result::ok).ok_or(node)
            });
        }
        let (mut bindings, mut more, mut silent) = (Vec::new(), false, Vec::new());
        while let Some(told) = answers.join_next().await {
            match told {
                Ok(Ok(page)) => {
                    more |= page.more;
                    bindings.extend(page.bindings);
                }
                Ok(Err(node)) => silent.push(node.to_string()),
                Err(error) => return Err(Status::internal(error.to_string())),
            }
        }
        silent.sort();
        let (bindings, cut) = first_page(bindings);
        Ok(ListTelephonesResponse { bindings, more: more || cut, silent })
    }

    async fn of(
        &self,
        node: &NodeId,
        asked: ListTelephonesRequest,
    ) -> Result<ListTelephonesResponse, Status> {
        let asked = ListTelephonesRequest { local: true, ..asked };
        if *node == self.placement.local().id {
            return self.local(&asked);
        }
        let channel = self.channels.node(node).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(AdminClient::new(channel).list_telephones(Request::new(asked)).await?.into_inner())
    }

    fn local(&self, asked: &ListTelephonesRequest) -> Result<ListTelephonesResponse, Status> {
        let Some(registrar) = self.registrar.get() else { return Ok(ListTelephonesResponse::default()) };
        let after = match asked.after_telephone.as_str() {
            "" => None,
            name => Some(address(&asked.after_tenant, name).ok_or_else(|| {
                Status::invalid_argument("after_tenant, after_telephone: not the name of an account")
            })?),
        };
        let wanted = |address: &EntityAddress| {
            (asked.tenant.is_empty() || asked.tenant == address.tenant.as_str())
                && (asked.telephone.is_empty() || asked.telephone == address.id)
        };
        let node = self.placement.local().id.to_string();
        let told = |Seen { address, binding }| TelephoneBinding {
            tenant: address.tenant.to_string(),
            telephone: address.id,
            binding: Some(binding),
            node: node.clone(),
        };
        // One more than a page: whether there are more.
        let seen = registrar.seen(after.as_ref(), wanted, PAGE + 1);
        let (bindings, more) = first_page(seen.into_iter().map(told).collect());
        Ok(ListTelephonesResponse { bindings, more, silent: Vec::new() })
    }
}

fn address(tenant: &str, telephone: &str) -> Option<EntityAddress> {
    Some(EntityAddress::telephone(&tenant.parse().ok()?, &telephone.parse().ok()?))
}

/// The bindings of the first accounts, in order, and whether others were cut off. An account that moves may be told by its
/// former owner and by its next one: by one of them is enough.
fn first_page(mut bindings: Vec<TelephoneBinding>) -> (Vec<TelephoneBinding>, bool) {
    let account = |one: &TelephoneBinding| (one.tenant.clone(), one.telephone.clone());
    bindings.sort_by_cached_key(|one| (account(one), one.node.clone()));
    let (mut accounts, mut owner) = (BTreeSet::new(), None);
    let mut cut = false;
    bindings.retain(|one| {
        let (name, node) = (account(one), one.node.clone());
        if accounts.insert(name) {
            owner = Some(node.clone());
        }
        cut |= accounts.len() > PAGE;
        accounts.len() <= PAGE && owner.as_ref() == Some(&node)
    });
    (bindings, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(telephone: usize, node: &str) -> TelephoneBinding {
        let (tenant, node) = ("default".to_owned(), node.to_owned());
        TelephoneBinding { tenant, telephone: format!("{telephone:05}"), binding: None, node }
    }

    #[test]
    fn a_page_ends_between_accounts_and_tells_each_once() {
        let mut all: Vec<_> = (0..PAGE + 1).rev().map(|n| binding(n, "n1")).collect();
        all.extend([binding(3, "n2"), binding(4, "n1"), binding(PAGE - 1, "n1")]);
        let (page, cut) = first_page(all);
        assert_eq!((page.len(), cut), (PAGE + 2, true));
        assert!(page.iter().all(|one| one.node == "n1"));
        assert_eq!(page.last().unwrap().telephone, format!("{:05}", PAGE - 1));
        let (page, cut) = first_page((0..PAGE).map(|n| binding(n, "n1")).collect());
        assert_eq!((page.len(), cut), (PAGE, false));
    }
}
