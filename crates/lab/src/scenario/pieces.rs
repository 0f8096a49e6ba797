//! Reading the pieces of a located tree, collecting faults instead of stopping
//! at the first.

use crate::yaml::{At, Fault, Key, Node, Tree};

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<Fault>,
}

/// The entries of a mapping whose keys are known.
pub(super) struct Fields<'a> {
    entries: &'a [(Key, Node)],
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }
}

impl Reader {
    pub(super) fn fault(&mut self, node: &Node, message: impl Into<String>) {
        self.faults.push(node.fault(message));
    }

    pub(super) fn fault_at(&mut self, at: At, message: impl Into<String>) {
        self.faults.push(Fault { at, message: message.into() });
    }

    /// The command line is at fault, not the text.
    pub(super) fn fault_of_overrides(&mut self, message: impl Into<String>) {
        self.fault_at(At::default(), message);
    }

    /// A mapping with no keys but these.
    pub(super) fn fields<'a>(&mut self, node: &'a Node, known: &[&str]) -> Option<Fields<'a>> {
        let Tree::Map(entries) = &node.tree else {
            self.fault(node, format!("a mapping is expected here, not {}", node.kind()));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) {
                let known = known.join(", ");
                self.fault_at(key.at, format!("`{}` is not known here; {known} are", key.name));
            }
        }
        Some(Fields { entries })
    }

    pub(super) fn entries<'a>(&mut self, node: &'a Node, what: &str) -> &'a [(Key, Node)] {
        if let Tree::Map(entries) = &node.tree {
            return entries;
        }
        self.fault(node, format!("{what} is a mapping, not {}", node.kind()));
        &[]
    }

    pub(super) fn list<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        if let Tree::List(items) = &node.tree {
            return items;
        }
        self.fault(node, format!("{what} is a list, not {}", node.kind()));
        &[]
    }

    /// Text; numbers and booleans are taken as they are written.
    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        match &node.tree {
            Tree::Text(text) => Some(text.clone()),
            Tree::Int(value) => Some(value.to_string()),
            Tree::Float(value) => Some(value.to_string()),
            Tree::Bool(value) => Some(value.to_string()),
            _ => {
                self.fault(node, format!("text is expected here, not {}", node.kind()));
                None
            }
        }
    }

    pub(super) fn whole(&mut self, node: &Node) -> Option<u64> {
        if let Tree::Int(value) = node.tree
            && let Ok(value) = u64::try_from(value)
        {
            return Some(value);
        }
        self.fault(node, "a whole number from 0 is expected here");
        None
    }

    pub(super) fn bool(&mut self, node: &Node) -> Option<bool> {
        if let Tree::Bool(value) = node.tree {
            return Some(value);
        }
        self.fault(node, "true or false is expected here");
        None
    }

    pub(super) fn positive(&mut self, node: &Node) -> Option<f64> {
        let value = match node.tree {
            Tree::Int(value) => value as f64,
            Tree::Float(value) => value,
            _ => f64::NAN,
        };
        if value.is_finite() && value > 0.0 {
            return Some(value);
        }
        self.fault(node, "a number above 0 is expected here");
        None
    }

    /// Text that `parse` understands.
    pub(super) fn parsed<T>(
        &mut self,
        node: &Node,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(node)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(node, message);
                None
            }
        }
    }
}
