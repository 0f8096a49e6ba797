//! The knowledge graph: nodes, the edges between them, and the groups that they
//! are in. A group is the caller's own name for a part of an organisation's
//! graph; what one group holds no other one sees.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{EdgeId, NodeId, SessionId};
use crate::json::JsonText;
use crate::log::EntityKind;
use crate::named;
use crate::resources::Resource;
use crate::time::Timestamp;

/// The group of whoever names none.
pub const GROUP_DEFAULT: &str = "default";
/// Who made what a client made.
pub const ORIGIN_CLIENT: &str = "client";
/// Who made what was drawn out of episodes.
pub const ORIGIN_EPISODES: &str = "episodes";
/// The kind of edge between nodes that episodes name together; its weight says in how
/// many.
pub const EDGE_CO_MENTIONS: &str = "co_mentions";
/// What the name of a group begins with that is a user's runs.
const GROUP_USER: &str = "user:";
/// What the name of a group begins with that is the runs of a session of nobody.
const GROUP_SESSION: &str = "session:";

/// Characters of a node's name, and of one of its other names, at most.
pub const NODE_NAME_CHARS_MAX: usize = 500;
/// Characters of a node's or an edge's kind at most.
pub const GRAPH_KIND_CHARS_MAX: usize = 100;
/// Characters of a node's language at most.
pub const NODE_LANGUAGE_CHARS_MAX: usize = 50;
/// Other names of a node at most.
pub const NODE_ALIASES_MAX: usize = 20;
/// What an edge weighs when nobody says, and at most, up or down.
pub const EDGE_WEIGHT_DEFAULT: f64 = 1.0;
/// See [`EDGE_WEIGHT_DEFAULT`].
pub const EDGE_WEIGHT_MAX: f64 = 1e12;

/// The kind of edge from who calls to who is called.
pub const EDGE_CALLS: &str = "calls";
/// The kind of edge from what holds to what it holds, which is no reference.
pub const EDGE_CONTAINS: &str = "contains";

/// Nodes that a traversal, a subgraph or a search gives when nobody says.
pub const GRAPH_NODES_DEFAULT: u32 = 100;
/// Nodes that a traversal, a subgraph or a search gives at most.
pub const GRAPH_NODES_MAX: u32 = 1_000;
/// Edges that are looked at, for each node that is asked for: what a traversal
/// costs follows what it may give, whatever the graph is like.
pub const EDGES_READ_PER_NODE: u32 = 20;
/// Edges that are looked at in any case, so that a small answer is not cut short
/// by the first node that has many.
pub const EDGES_READ_MIN: u32 = 500;
/// Steps from the first node when nobody says.
pub const TRAVERSE_DEPTH_DEFAULT: u32 = 3;
/// Steps from the first node at most.
pub const TRAVERSE_DEPTH_MAX: u32 = 50;
/// Kinds of edges that a traversal may name.
pub const TRAVERSE_KINDS_MAX: usize = 20;
/// Names that a search by name looks at: further ones that begin alike are not
/// counted.
pub const NAMES_READ_MAX: u32 = 2_000;
/// Nodes with the name of a symbol that is asked about.
pub const SYMBOL_NODES_MAX: u32 = 20;
/// Kinds of nodes, and of edges, that the statistics name.
pub const STATS_KINDS_MAX: u32 = 200;

/// Lines of an import that are stored in one write.
pub const IMPORT_BATCH_LINES: usize = 1_000;
/// Bytes of lines of an import that are stored in one write.
pub const IMPORT_BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of a line of an import at most.
pub const IMPORT_LINE_BYTES_MAX: usize = 256 * 1024;
/// Bad lines of an import that its answer names.
pub const IMPORT_FAULTS_MAX: usize = 1_000;

/// Bytes of a name in normal form that an index holds; longer ones are cut.
const NORMAL_BYTES_MAX: usize = 512;
/// Ends of one name that it is found by.
const NAME_ENDS_MAX: usize = 16;

/// The caller's own name for a part of an organisation's graph.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupId(String);

impl GroupId {
    /// A group of this name, which has 1 to 256 characters and no U+0000.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The group of what a user says in runs.
    pub fn user(user_id: &str) -> Self {
        Self(format!("{GROUP_USER}{user_id}"))
    }

    /// The group of what is said in the runs of a session that belongs to nobody.
    pub fn session(session: SessionId) -> Self {
        Self(format!("{GROUP_SESSION}{session}"))
    }

    /// The user whose runs it is of.
    pub fn of_user(&self) -> Option<&str> {
        self.0.strip_prefix(GROUP_USER)
    }

    /// The session whose runs it is of.
    pub fn of_session(&self) -> Option<SessionId> {
        self.0.strip_prefix(GROUP_SESSION)?.parse().ok()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GroupId {
    fn default() -> Self {
        Self(GROUP_DEFAULT.to_owned())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeBody {
    /// The caller's own id of it; one node of a group alone has it.
    pub key: Option<String>,
    /// What kind of thing it is.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// What else it is called.
    pub aliases: Vec<String>,
    /// The language it is in, of people or of programs.
    pub language: Option<String>,
    /// A JSON object of the client's.
    pub properties: JsonText,
}

impl Resource for NodeBody {
    type Id = NodeId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Node;

    fn also(&self, _id: NodeId) {}
}

/// A node of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The group it is in.
    pub group_id: GroupId,
    /// What clients set.
    #[serde(flatten)]
    pub body: NodeBody,
    /// Who made it.
    pub origin: String,
    /// Edges that end here.
    pub in_degree: u64,
    /// Edges that begin here.
    pub out_degree: u64,
    /// Grows with every change of what clients set, from 1.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Node {
    /// A node that begins, without edges.
    pub fn new(
        id: NodeId,
        group_id: GroupId,
        body: NodeBody,
        origin: &str,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            group_id,
            body,
            origin: origin.to_owned(),
            in_degree: 0,
            out_degree: 0,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// The same node with another body, as its next version.
    pub fn changed(&self, body: NodeBody, now: Timestamp) -> Self {
        Self { body, version: self.version + 1, updated_at: now, ..self.clone() }
    }
}

/// What an edge is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeBody {
    /// Where it begins.
    pub from: NodeId,
    /// Where it ends.
    pub to: NodeId,
    /// What it says. Between two nodes, in one direction, there is one of a kind.
    pub kind: String,
    /// How much it counts.
    pub weight: f64,
    /// A JSON object of the client's.
    pub properties: JsonText,
}

impl Resource for EdgeBody {
    type Id = EdgeId;
    type Also<'a> = ();
    const KIND: EntityKind = EntityKind::Edge;

    fn also(&self, _id: EdgeId) {}
}

/// An edge of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// Its id.
    pub id: EdgeId,
    /// The group it is in.
    pub group_id: GroupId,
    /// What clients set.
    #[serde(flatten)]
    pub body: EdgeBody,
    /// Who made it.
    pub origin: String,
    /// Grows with every change, from 1.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Edge {
    /// An edge that begins.
    pub fn new(
        id: EdgeId,
        group_id: GroupId,
        body: EdgeBody,
        origin: &str,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            group_id,
            body,
            origin: origin.to_owned(),
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// The same edge with another body, as its next version.
    pub fn changed(&self, body: EdgeBody, now: Timestamp) -> Self {
        Self { body, version: self.version + 1, updated_at: now, ..self.clone() }
    }
}

named! {
    /// What a node's edges make of it.
    pub enum Category {
        /// Edges begin here and none end here.
        EntryPoints = "entry_points",
        /// The nodes with the most edges: the first quarter, rounded up, of a group's
        /// nodes, by how many edges they have and then by id, without isolated ones.
        Hubs = "hubs",
        /// Edges end here and none begin here.
        Leaves = "leaves",
        /// No edge begins or ends here.
        Isolated = "isolated",
    }
}

/// One of so many nodes is a hub.
const HUBS_ONE_IN: u64 = 4;

/// How many hubs there are among so many nodes, of which so many have edges.
pub fn hubs(nodes: u64, with_edges: u64) -> u64 {
    nodes.div_ceil(HUBS_ONE_IN).min(with_edges)
}

named! {
    /// Which way edges are followed.
    #[derive(Default)]
    pub enum Direction {
        /// From where they begin to where they end.
        #[default]
        Out = "out" | "outgoing" | "outbound",
        /// From where they end to where they begin.
        In = "in" | "incoming" | "inbound",
        /// Both.
        Both = "both",
    }
}

impl Direction {
    /// Whether edges that begin at a node are followed from it.
    pub const fn goes_out(self) -> bool {
        matches!(self, Self::Out | Self::Both)
    }

    /// Whether edges that end at a node are followed from it.
    pub const fn goes_in(self) -> bool {
        matches!(self, Self::In | Self::Both)
    }
}

named! {
    /// In which order a traversal gives the nodes that it reached.
    #[derive(Default)]
    pub enum QueryType {
        /// The nearest first.
        #[default]
        Bfs = "bfs",
        /// Each path to its end first.
        Dfs = "dfs",
        /// Along calls alone, each path to its end first.
        CallChain = "call_chain",
    }
}

/// How many nodes and edges a group has, and of which kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphStats {
    /// Nodes.
    pub nodes: u64,
    /// Edges.
    pub edges: u64,
    /// Nodes of each kind, in the order of the names; at most [`STATS_KINDS_MAX`].
    pub node_kinds: Vec<(String, u64)>,
    /// Edges of each kind, likewise.
    pub edge_kinds: Vec<(String, u64)>,
    /// Nodes at which edges begin and none end.
    pub entry_points: u64,
    /// Nodes at which edges end and none begin.
    pub leaves: u64,
    /// Nodes without edges.
    pub isolated: u64,
}

impl GraphStats {
    /// The nodes with the most edges; see [`Category::Hubs`].
    pub fn hubs(&self) -> u64 {
        hubs(self.nodes, self.nodes.saturating_sub(self.isolated))
    }

    /// How many nodes are in a category.
    pub fn of(&self, category: Category) -> u64 {
        match category {
            Category::EntryPoints => self.entry_points,
            Category::Hubs => self.hubs(),
            Category::Leaves => self.leaves,
            Category::Isolated => self.isolated,
        }
    }
}

/// A name in normal form, in which names are compared: lower case, words of letters
/// and digits with one blank between them. Empty when it has none.
pub fn normal_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    let mut gap = false;
    for c in name.chars() {
        if c.is_alphanumeric() {
            if gap && !normal.is_empty() {
                normal.push(' ');
            }
            gap = false;
            normal.extend(c.to_lowercase());
        } else {
            gap = true;
        }
    }
    cut(normal)
}

/// The ends of a name in normal form that begin with a later word. A word begins
/// after what is no letter or digit, and where a capital follows a small letter.
pub fn name_ends(name: &str) -> Vec<String> {
    let mut ends = Vec::new();
    let mut before: Option<char> = None;
    let mut begun = false;
    for (at, c) in name.char_indices() {
        let begins = c.is_alphanumeric()
            && match before {
                None => false,
                Some(before) if !before.is_alphanumeric() => begun,
                Some(before) => before.is_lowercase() && c.is_uppercase(),
            };
        if begins {
            ends.push(normal_name(&name[at..]));
            if ends.len() == NAME_ENDS_MAX {
                break;
            }
        }
        begun |= c.is_alphanumeric();
        before = Some(c);
    }
    ends
}

fn cut(mut normal: String) -> String {
    normal.truncate(normal.floor_char_boundary(NORMAL_BYTES_MAX));
    normal
}

/// Which of a node's names one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePart {
    /// Its name.
    Name = 0,
    /// Another name of it.
    Alias = 1,
    /// The end of one of them.
    End = 2,
}

impl NodeBody {
    /// What it is found by, each once, with the most telling part.
    pub fn names(&self) -> Vec<(String, NamePart)> {
        let mut names = vec![(normal_name(&self.name), NamePart::Name)];
        names.extend(self.aliases.iter().map(|alias| (normal_name(alias), NamePart::Alias)));
        let each = std::iter::once(&self.name).chain(&self.aliases);
        names.extend(each.flat_map(|name| name_ends(name)).map(|end| (end, NamePart::End)));
        names.retain(|(name, _)| !name.is_empty());
        names.sort();
        names.dedup_by(|later, first| later.0 == first.0);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_normal_form() {
        for (name, normal) in [
            ("Ada Lovelace", "ada lovelace"),
            ("  Ada\u{a0}--LOVELACE! ", "ada lovelace"),
            ("agentry_store::Store::write", "agentry store store write"),
            ("parseConfig", "parseconfig"),
            ("\u{c9}mile \u{c4}", "\u{e9}mile \u{e4}"),
            ("src/main.rs", "src main rs"),
            ("::", ""),
        ] {
            assert_eq!(normal_name(name), normal, "{name}");
        }
        let long = "\u{e9}".repeat(400);
        assert_eq!(normal_name(&long).len(), NORMAL_BYTES_MAX);
    }

    #[test]
    fn a_name_ends_with_its_later_words() {
        for (name, ends) in [
            ("parse", &[][..]),
            ("::parse", &[]),
            ("parse_config file", &["config file", "file"]),
            ("parseConfigFile", &["configfile", "file"]),
            ("HTTPServer", &[]),
            ("a::b::c", &["b c", "c"]),
            ("trailing_", &[]),
        ] {
            assert_eq!(name_ends(name), ends, "{name}");
        }
        assert_eq!(name_ends(&"w ".repeat(100)).len(), NAME_ENDS_MAX);
    }

    #[test]
    fn a_node_is_found_by_each_of_its_names_once() {
        let node = NodeBody {
            key: None,
            kind: "function".to_owned(),
            name: "Store::write".to_owned(),
            aliases: vec!["write".to_owned(), "!".to_owned(), "store WRITE".to_owned()],
            language: None,
            properties: JsonText::empty(),
        };
        let names = node.names();
        let names: Vec<(&str, NamePart)> =
            names.iter().map(|(name, part)| (name.as_str(), *part)).collect();
        assert_eq!(names, [("store write", NamePart::Name), ("write", NamePart::Alias)]);
    }

    #[test]
    fn a_quarter_of_the_nodes_are_hubs_if_as_many_have_edges() {
        for (nodes, with_edges, expected) in
            [(0, 0, 0), (1, 0, 0), (1, 1, 1), (4, 4, 1), (5, 5, 2), (100, 3, 3), (100, 99, 25)]
        {
            assert_eq!(hubs(nodes, with_edges), expected, "{nodes} {with_edges}");
        }
    }
}
