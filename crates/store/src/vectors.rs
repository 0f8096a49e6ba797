//! Episodes as vectors, in the store. What is near to what is found out in memory.

use agentry_domain::graph::GroupId;
use agentry_domain::{EpisodeId, OrgId, Timestamp};

use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::Write;
use crate::{Result, Store};

statements! {
    VECTOR_PUT = "insert into graph_vector (org, group_id, episode, model, made_at, vector) \
        values ($1, $2, $3, $4, $5, $6) on conflict (org, group_id, episode) do update \
        set model = excluded.model, made_at = excluded.made_at, vector = excluded.vector";
    VECTORS_BEFORE = "select episode, model, made_at, vector from graph_vector where org = $1 \
        and group_id = $2 and (made_at, episode) < ($3, $4) \
        order by made_at desc, episode desc limit $5";
    VECTORS_SINCE = "select episode, model, made_at, vector from graph_vector where org = $1 \
        and group_id = $2 and (made_at, episode) > ($3, $4) order by made_at, episode limit $5";
    VECTOR_DELETE = "delete from graph_vector where org = $1 and group_id = $2 and episode = $3";
}

/// An episode as a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct EpisodeVector {
    /// The episode.
    pub episode: EpisodeId,
    /// The model that made it.
    pub model: String,
    /// When it was stored.
    pub made_at: Timestamp,
    /// Its numbers.
    pub vector: Vec<f32>,
}

impl EpisodeVector {
    /// Its place in the order in which vectors were stored.
    pub fn place(&self) -> (Timestamp, EpisodeId) {
        (self.made_at, self.episode)
    }
}

impl Write {
    /// Stores an episode's vector, in place of an earlier one.
    pub fn vector_put(&mut self, group: &GroupId, of: &EpisodeVector) {
        let bytes: Vec<u8> = of.vector.iter().flat_map(|n| n.to_le_bytes()).collect();
        let (name, model) = (group.as_str().to_owned(), of.model.clone());
        self.add(&VECTOR_PUT, values![self.org, name, of.episode, model, of.made_at, bytes]);
    }

    pub(crate) fn vector_forget(&mut self, group: &GroupId, episode: EpisodeId) {
        self.add(&VECTOR_DELETE, values![self.org, group.as_str().to_owned(), episode]);
    }
}

impl Store {
    /// The newest vectors of a group, of every model, or those that came before a place;
    /// newest first.
    pub async fn vectors_before(
        &self,
        org: OrgId,
        group: &GroupId,
        place: Option<(Timestamp, EpisodeId)>,
        limit: u32,
    ) -> Result<Vec<EpisodeVector>> {
        let last = (Timestamp::from_micros(i64::MAX), EpisodeId::from_bytes([0xff; 16]));
        let (at, id) = place.unwrap_or(last);
        let bound = values![org, group.as_str().to_owned(), at, id, limit];
        self.scan(&VECTORS_BEFORE, bound, vector).await
    }

    /// The vectors of a group that came after a place, in order.
    pub async fn vectors_since(
        &self,
        org: OrgId,
        group: &GroupId,
        (at, id): (Timestamp, EpisodeId),
        limit: u32,
    ) -> Result<Vec<EpisodeVector>> {
        let bound = values![org, group.as_str().to_owned(), at, id, limit];
        self.scan(&VECTORS_SINCE, bound, vector).await
    }
}

fn vector(row: &mut Columns<'_>) -> Result<EpisodeVector> {
    Ok(EpisodeVector {
        episode: EpisodeId::from_bytes(row.id()?),
        model: row.text()?,
        made_at: row.time()?,
        vector: row
            .bytes()?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
    })
}
