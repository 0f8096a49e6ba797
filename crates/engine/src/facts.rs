//! Facts as clients read them, and nodes that turn out to be one.

use agentry_domain::facts::{Evidence, Fact};
use agentry_domain::graph::GroupId;
use agentry_domain::{
    Caller, Code, Error, FactId, Fault, NodeId, OrgId, Page, PageRequest, Result,
};
use agentry_store::{FactFilter, NodeMerge, Write};

use crate::Engine;

/// Nodes that were merged into one whose facts are asked for and read with it.
const MERGED_READ_MAX: u32 = 16;

impl Engine {
    /// A page of a group's facts, with what each rests on.
    pub async fn fact_list(
        &self,
        caller: &Caller,
        group: &GroupId,
        filter: &FactFilter,
        page: PageRequest,
    ) -> Result<Page<(Fact, Vec<Evidence>)>> {
        let page = self.facts_page(caller.org, group, filter, &page).await?;
        let ids: Vec<FactId> = page.items.iter().map(|fact| fact.id).collect();
        let evidence = self.0.store.evidence_of(caller.org, group, &ids).await?;
        let Page { items, total, total_capped, limit, next } = page;
        let items = items.into_iter().zip(evidence).collect();
        Ok(Page { items, total, total_capped, limit, next })
    }

    /// A page of facts; of a node that others were merged into, theirs too.
    async fn facts_page(
        &self,
        org: OrgId,
        group: &GroupId,
        filter: &FactFilter,
        page: &PageRequest,
    ) -> Result<Page<Fact>> {
        let mut all = self.0.store.fact_list(org, group, filter, page).await?;
        let Some(subject) = filter.subject else { return Ok(all) };
        let merged = self.0.store.node_merges_into(org, group, &[subject], MERGED_READ_MAX).await?;
        if merged.is_empty() {
            return Ok(all);
        }
        let mut goes_on = all.next.is_some();
        for merge in merged {
            let filter = FactFilter { subject: Some(merge.merged), ..filter.clone() };
            let more = self.0.store.fact_list(org, group, &filter, page).await?;
            goes_on |= more.next.is_some();
            all.items.extend(more.items);
        }
        all.items.sort_by_key(|fact| std::cmp::Reverse(fact.id));
        let limit = all.limit as usize;
        goes_on |= all.items.len() > limit;
        all.items.truncate(limit);
        // Behind the last one that is shown, in each of the nodes' lists.
        let last = all.items.last().map(|fact| fact.id.to_bytes());
        all.next = last.filter(|_| goes_on);
        Ok(all)
    }

    /// The fact with this id, with what it rests on.
    pub async fn fact_get(
        &self,
        caller: &Caller,
        group: &GroupId,
        id: FactId,
    ) -> Result<(Fact, Vec<Evidence>)> {
        let fact = self.0.store.fact_get(caller.org, group, id).await?;
        let fact = fact.ok_or_else(|| Error::not_found("fact", id))?;
        let evidence = self.0.store.evidence_of(caller.org, group, &[id]).await?;
        Ok((fact, evidence.into_iter().next().unwrap_or_default()))
    }

    /// Says that one node is another one from now on.
    pub async fn node_merge(
        &self,
        caller: &Caller,
        group: &GroupId,
        (merged, into): (NodeId, NodeId),
        cause: String,
    ) -> Result<NodeMerge> {
        if merged == into {
            let detail = "is this node itself";
            return Err(Error::invalid(vec![Fault::new("/node_id", "exclusive", detail)]));
        }
        // A circle would be followed without end.
        let onward = self.0.store.node_merges_of(caller.org, group, &[into]).await?;
        if let Some(merge) = onward.first() {
            let detail = format!("node {into} is merged into {}; merge into that", merge.into);
            return Err(Error::new(Code::Conflict, detail));
        }
        let merge = NodeMerge { merged, into, cause, created_at: self.now() };
        let mut write = Write::new(caller.org);
        for node in [merged, into] {
            write.graph_nodes_present(group, &[node], move || Error::not_found("node", node));
        }
        write.node_merge(group, &merge);
        self.0.store.write(write).await?;
        Ok(merge)
    }

    /// Says that one node is another one no longer.
    pub async fn node_unmerge(
        &self,
        caller: &Caller,
        group: &GroupId,
        (merged, into): (NodeId, NodeId),
    ) -> Result<()> {
        let mut write = Write::new(caller.org);
        write.node_unmerge(group, merged, into);
        self.0.store.write(write).await?;
        Ok(())
    }
}
