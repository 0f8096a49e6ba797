//! Registering operations. [`op!`] takes a handler with a `#[utoipa::path]` and
//! gives it a permission and a class; method and path stand in that attribute
//! alone. Out of the registered operations come the router, the OpenAPI
//! document and the table in which the edge looks up what a (method, path
//! template) needs.

use std::collections::HashMap;

use agentry_domain::Permission;
use agentry_domain::limits::Work;
use axum::Router;
use http::Method;
use utoipa::openapi::path::Operation as Described;
use utoipa::openapi::{OpenApi, PathItem, SecurityRequirement};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::metrics::{Metrics, RouteMetrics};

/// What an operation asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Nothing: no credential is read.
    Open,
    /// A caller whose role allows this.
    Needs(Permission),
}

/// How long an operation may take and which bound it counts against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Looks at the server itself. Is never refused for overload, so that an
    /// overloaded server can still be watched.
    Probe,
    /// An ordinary request.
    Request,
    /// Takes or gives a file: its body has a bound of its own, and more time.
    Transfer,
    /// Takes things in bulk: its body has a bound of its own, and more time still.
    Import,
    /// Waits for a model, or streams while it speaks.
    Run,
    /// Streams for as long as the client listens.
    Stream,
}

/// One operation, before it is registered. Made by [`op!`].
pub struct Op<S> {
    access: Access,
    class: Class,
    work: Option<Work>,
    routes: UtoipaMethodRouter<S>,
}

impl<S> Op<S> {
    /// What [`op!`] calls.
    pub fn new(access: Access, class: Class, routes: UtoipaMethodRouter<S>) -> Self {
        Self { access, class, work: None, routes }
    }

    /// Says which limits count it, where method and class do not tell.
    #[must_use]
    pub fn limited(self, work: Work) -> Self {
        Self { work: Some(work), ..self }
    }
}

impl<S> std::fmt::Debug for Op<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Op").field("access", &self.access).field("class", &self.class).finish()
    }
}

/// Gives a handler its permission and class: `op!(AgentsRead, Request, agent_get)`,
/// or `op!(open, Probe, health)` for an operation that needs no caller. The crate that calls it
/// needs `axum` and `utoipa` among its dependencies.
#[macro_export]
macro_rules! op {
    (open, $class:ident, $($handler:tt)+) => {
        $crate::Op::new(
            $crate::Access::Open,
            $crate::Class::$class,
            $crate::macro_support::routes!($($handler)+),
        )
    };
    ($permission:ident, $class:ident, $($handler:tt)+) => {
        $crate::Op::new(
            $crate::Access::Needs($crate::macro_support::Permission::$permission),
            $crate::Class::$class,
            $crate::macro_support::routes!($($handler)+),
        )
    };
}

/// The names of the security schemes that the OpenAPI document declares.
pub const SECURITY_SCHEMES: [&str; 2] = ["api_key", "bearer"];

/// Operations being collected.
pub struct Operations<S> {
    router: OpenApiRouter<S>,
    rules: Vec<Rule>,
}

/// What an operation needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its method.
    pub method: Method,
    /// Its path template.
    pub path: String,
    /// What it asks of its caller.
    pub access: Access,
    /// Its class.
    pub class: Class,
    /// Which limits count it.
    pub work: Work,
}

/// Which limits count an operation of which nothing else is said.
fn work_of(method: &Method, class: Class) -> Work {
    match class {
        Class::Run => Work::Run,
        Class::Probe | Class::Request | Class::Transfer | Class::Import | Class::Stream => {
            if matches!(*method, Method::GET | Method::HEAD) { Work::Read } else { Work::Other }
        }
    }
}

impl<S> std::fmt::Debug for Operations<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operations").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<S: Clone + Send + Sync + 'static> Operations<S> {
    /// Begins with the document's head: title, tags, security schemes.
    pub fn new(document: OpenApi) -> Self {
        Self { router: OpenApiRouter::with_openapi(document), rules: Vec::new() }
    }

    /// Registers an operation.
    #[must_use]
    pub fn with(mut self, op: Op<S>) -> Self {
        let Op { access, class, work, mut routes } = op;
        for (path, item) in &mut routes.1.paths {
            for (method, described) in described(item) {
                describe_access(described, access);
                let work = work.unwrap_or_else(|| work_of(&method, class));
                self.rules.push(Rule { method, path: path.clone(), access, class, work });
            }
        }
        self.router = self.router.routes(routes);
        self
    }

    /// The collected rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The collected document.
    pub fn document(&self) -> &OpenApi {
        self.router.get_openapi()
    }

    /// The three results: the router, the document and the edge's table.
    pub fn finish(self, state: S, metrics: &Metrics) -> (Router, OpenApi, Table) {
        let (router, document) = self.router.split_for_parts();
        (router.with_state(state), document, Table::new(self.rules, metrics))
    }
}

/// The operations that a path item describes, by method.
pub fn described(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Described)> {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::OPTIONS, &mut item.options),
        (Method::HEAD, &mut item.head),
        (Method::PATCH, &mut item.patch),
        (Method::TRACE, &mut item.trace),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

fn describe_access(operation: &mut Described, access: Access) {
    let scopes: [&str; 0] = [];
    operation.security = Some(match access {
        Access::Open => Vec::new(),
        Access::Needs(_) => SECURITY_SCHEMES
            .iter()
            .map(|scheme| SecurityRequirement::new(*scheme, scopes))
            .collect(),
    });
}

/// An operation, as the edge sees it.
#[derive(Debug)]
pub struct Operation {
    /// Its rule.
    pub rule: Rule,
    /// Its metrics.
    pub metrics: RouteMetrics,
}

/// Looks operations up by method and path template.
#[derive(Debug)]
pub struct Table {
    operations: Vec<Operation>,
    // A path has a handful of methods; comparing them beats hashing the pair.
    by_path: HashMap<String, Vec<(Method, usize)>>,
    unmatched: RouteMetrics,
}

impl Table {
    fn new(rules: Vec<Rule>, metrics: &Metrics) -> Self {
        let operations: Vec<Operation> = rules
            .into_iter()
            .map(|rule| Operation {
                metrics: metrics.route(rule.method.as_str(), &rule.path),
                rule,
            })
            .collect();
        let mut by_path = HashMap::<String, Vec<(Method, usize)>>::new();
        for (index, operation) in operations.iter().enumerate() {
            let rule = &operation.rule;
            by_path.entry(rule.path.clone()).or_default().push((rule.method.clone(), index));
        }
        // One series for every unknown path: labels that clients choose would
        // grow without bound.
        Self { operations, by_path, unmatched: metrics.route("any", "unmatched") }
    }

    /// The index of an operation. `HEAD` is served by `GET`.
    pub fn find(&self, method: &Method, path: &str) -> Option<usize> {
        let methods = self.by_path.get(path)?;
        let by = |wanted: &Method| {
            methods.iter().find(|(method, _)| method == wanted).map(|(_, index)| *index)
        };
        by(method).or_else(|| (*method == Method::HEAD).then(|| by(&Method::GET)).flatten())
    }

    /// The operation at an index that [`Table::find`] gave.
    pub fn get(&self, index: usize) -> Option<&Operation> {
        self.operations.get(index)
    }

    /// Every operation.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The metrics of requests that match no operation.
    pub fn unmatched(&self) -> &RouteMetrics {
        &self.unmatched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[utoipa::path(get, path = "/things/{id}", responses((status = 200)))]
    async fn thing_get() {}

    #[utoipa::path(post, path = "/things", responses((status = 201)))]
    async fn thing_create() {}

    #[utoipa::path(get, path = "/open", responses((status = 200)))]
    async fn open_get() {}

    #[test]
    fn every_described_operation_has_a_rule_and_the_reverse() {
        let operations = Operations::<()>::new(OpenApi::default())
            .with(op!(AgentsRead, Request, thing_get))
            .with(op!(AgentsWrite, Run, thing_create))
            .with(op!(open, Probe, open_get));
        let (_router, mut document, table) = operations.finish((), &Metrics::new());

        let mut seen = 0;
        for (path, item) in &mut document.paths.paths {
            for (method, described) in described(item) {
                let index = table.find(&method, path).unwrap();
                let rule = &table.get(index).unwrap().rule;
                let secured = described.security.as_ref().is_some_and(|list| !list.is_empty());
                assert_eq!(secured, rule.access != Access::Open, "{method} {path}");
                seen += 1;
            }
        }
        assert_eq!(seen, table.operations().len());
        assert_eq!(seen, 3);
    }

    #[test]
    fn head_is_served_by_get_and_nothing_else_is_guessed() {
        let operations =
            Operations::<()>::new(OpenApi::default()).with(op!(AgentsRead, Request, thing_get));
        let (_, _, table) = operations.finish((), &Metrics::new());
        let get = table.find(&Method::GET, "/things/{id}");
        assert!(get.is_some());
        assert_eq!(table.find(&Method::HEAD, "/things/{id}"), get);
        assert_eq!(table.find(&Method::POST, "/things/{id}"), None);
        assert_eq!(table.find(&Method::GET, "/things/1"), None);
    }
}
