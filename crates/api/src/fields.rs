//! Reading a request's fields, and describing them. A resource writes down its
//! fields once, as a function over [`Fields`]; run on a body or a query it
//! reads them and collects every fault, run on a description it yields the
//! OpenAPI schema. So the document cannot promise what the reader refuses.
//!
//! ```text
//! impl FromFields for Thing {
//!     fn read(fields: &mut Fields) -> Self {
//!         Self {
//!             name: fields.text("name", 1..=200).about("What people call it.").required(),
//!             limit: fields.integer("limit", 1..=50).or(5),
//!         }
//!     }
//! }
//! ```
//!
//! A faulty field yields a placeholder and the reading goes on; the caller sees
//! the value only when there was no fault at all. `null` means the same as
//! absence, except in a merge patch (RFC 7396), where it resets the field.
//! Unknown fields are ignored. The kinds of fields are in [`kinds`].
//!
//! The body of a resource is one function for creation, change and answer
//! ([`ResourceFields`]): each field also says what it was, which is what it
//! stays when a change does not name it.

pub(crate) mod bounds;
pub mod kinds;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::ops::RangeInclusive;

use agentry_domain::{Code, Error, Fault, JsonText, Resource, ResourceId, Result};
use serde_json::{Map, Value};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{RefOr, Required};

use kinds::{
    AnyJson, Boolean, Choice, ExternalId, FreeList, FreeObject, Integer, Items, Kind, MergePatch,
    Nested, Reference, Text, Time, Uuid,
};

/// What the faults of something known but not built yet are called.
pub const NOT_SUPPORTED_YET: &str = "not_supported_yet";

/// What an object of the client's is, for the document.
const OWN: &str = "The client's own, kept as it is.";

/// Something that is read field by field.
pub trait FromFields: Sized {
    /// Reads or describes it; see the module.
    fn read(fields: &mut Fields) -> Self;
}

/// The body of a resource, as clients write and read it.
pub trait ResourceFields: Resource {
    /// What its schemas are called.
    const NAME: &'static str;

    /// Reads or describes what clients set: a whole new body, or a change of
    /// what it was.
    fn fields(fields: &mut Fields, was: Option<&Self>) -> Self;

    /// Describes what else stands in a document beside the head: what the
    /// server made.
    fn made(_fields: &mut Fields) {}
}

/// What fields are read or described for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A request: a new resource, a query, an action.
    Request,
    /// A merge patch.
    Change,
    /// A resource's document, in which every field stands.
    Answer,
}

/// The fields of one JSON object or one query string.
pub struct Fields {
    source: Source,
    purpose: Purpose,
    at: String,
    faults: Vec<Fault>,
}

enum Source {
    /// A JSON object.
    Body(Map<String, Value>),
    /// A query string: every value is text.
    Query(Map<String, Value>),
    /// Nothing is read; the fields are written down.
    Description(Vec<Described>),
}

/// A field in a description.
struct Described {
    name: &'static str,
    schema: Schema,
    required: bool,
}

/// Reads a JSON object; every fault of it in one error.
pub fn read_body<T: FromFields>(object: Map<String, Value>, faults: Vec<Fault>) -> Result<T> {
    let source = Source::Body(object);
    Fields { source, purpose: Purpose::Request, at: String::new(), faults }.read_all(T::read)
}

/// Reads a merge patch of a resource that is like this now.
pub fn read_change<R: ResourceFields>(
    object: Map<String, Value>,
    faults: Vec<Fault>,
    was: &R,
) -> Result<R> {
    let source = Source::Body(object);
    let fields = Fields { source, purpose: Purpose::Change, at: String::new(), faults };
    fields.read_all(|fields| R::fields(fields, Some(was)))
}

/// Reads a query's pairs; the last of several with the same name counts.
pub fn read_query<T: FromFields>(pairs: Vec<(String, String)>) -> Result<T> {
    let mut faults = Vec::new();
    let mut map = Map::new();
    for (name, value) in pairs {
        if value.contains('\0') {
            faults.push(nul_fault(name.clone()));
        }
        map.insert(name, Value::String(value));
    }
    let source = Source::Query(map);
    Fields { source, purpose: Purpose::Request, at: String::new(), faults }.read_all(T::read)
}

/// The schema of a body.
pub fn schema<T: FromFields>() -> RefOr<Schema> {
    RefOr::T(object_schema(Purpose::Request, &|fields| {
        T::read(fields);
    }))
}

/// The schema of a resource's new body, of its change, or of its document.
pub fn resource_schema<R: ResourceFields>(purpose: Purpose) -> RefOr<Schema> {
    RefOr::T(object_schema(purpose, &|fields| {
        if purpose == Purpose::Answer {
            fields.made("id", Uuid, "Its id.");
        }
        R::fields(fields, None);
        if purpose == Purpose::Answer {
            R::made(fields);
            let version = Integer::between(1..=i64::MAX);
            fields.made("version", version, "Grows with every change; the entity tag.");
            fields.made("created_at", Time, "When it was made.");
            fields.made("updated_at", Time, "When it was last changed.");
        }
    }))
}

/// The parameters of a query.
pub fn parameters<T: FromFields>() -> Vec<Parameter> {
    let mut fields = Fields::description(Purpose::Request);
    T::read(&mut fields);
    fields
        .described()
        .into_iter()
        .map(|Described { name, mut schema, required }| {
            let description = take_description(&mut schema);
            // A list stands between commas, in one parameter.
            let is_list = matches!(schema, Schema::Array(_));
            ParameterBuilder::new()
                .style(is_list.then_some(ParameterStyle::Form))
                .explode(is_list.then_some(false))
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(if required { Required::True } else { Required::False })
                .description(description)
                .schema(Some(RefOr::T(schema)))
                .build()
        })
        .collect()
}

/// The fault of a text that holds U+0000, which PostgreSQL cannot store.
pub fn nul_fault(pointer: String) -> Fault {
    Fault::new(pointer, "nul", "must not contain U+0000")
}

fn object_schema(purpose: Purpose, read: &dyn Fn(&mut Fields)) -> Schema {
    let mut fields = Fields::description(purpose);
    read(&mut fields);
    let mut object = ObjectBuilder::new();
    for Described { name, schema, required } in fields.described() {
        object = object.property(name, RefOr::T(schema));
        if required {
            object = object.required(name);
        }
    }
    Schema::Object(object.build())
}

fn take_description(schema: &mut Schema) -> Option<String> {
    match schema {
        Schema::Object(object) => object.description.take(),
        Schema::Array(array) => array.description.take(),
        _ => None,
    }
}

impl Fields {
    fn description(purpose: Purpose) -> Self {
        let source = Source::Description(Vec::new());
        Self { source, purpose, at: String::new(), faults: Vec::new() }
    }

    fn described(self) -> Vec<Described> {
        match self.source {
            Source::Description(described) => described,
            Source::Body(_) | Source::Query(_) => Vec::new(),
        }
    }

    fn read_all<T>(mut self, read: impl FnOnce(&mut Self) -> T) -> Result<T> {
        let value = read(&mut self);
        match finish(self.faults) {
            None => Ok(value),
            Some(error) => Err(error),
        }
    }

    /// Text of this many characters.
    pub fn text(&mut self, name: &'static str, chars: RangeInclusive<usize>) -> Field<'_, Text> {
        self.field(name, Text { chars })
    }

    /// A caller's own id: text of 1 to [`kinds::EXTERNAL_ID_CHARS_MAX`] characters, or an
    /// integer, which is kept as text.
    pub fn external_id(&mut self, name: &'static str) -> Field<'_, ExternalId> {
        self.field(name, ExternalId)
    }

    /// An integer in this range.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Field<'_, Integer> {
        self.field(name, Integer { range })
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &'static str) -> Field<'_, Boolean> {
        self.field(name, Boolean)
    }

    /// One of the names of an enum.
    pub fn choice<T: agentry_domain::Named>(&mut self, name: &'static str) -> Field<'_, Choice<T>> {
        self.field(name, Choice::new())
    }

    /// The client's own JSON object, kept as compact text.
    pub fn object(&mut self, name: &'static str) -> Field<'_, FreeObject> {
        self.field(name, FreeObject)
    }

    /// A JSON object of the client's in a resource's body: empty when it is not
    /// given, merged (RFC 7396) into what it was when it is changed.
    pub fn own_object(&mut self, name: &'static str, was: Option<&JsonText>) -> JsonText {
        self.own_object_named(name, None, OWN, was)
    }

    /// The same, with another name that is read when the first is absent.
    pub fn own_object_named(
        &mut self,
        name: &'static str,
        alias: Option<&'static str>,
        about: &'static str,
        was: Option<&JsonText>,
    ) -> JsonText {
        let Some(was) = was.filter(|_| self.purpose == Purpose::Change) else {
            let field = Field { alias, ..self.object(name) };
            return JsonText::known(field.about(about).or("{}".to_owned()));
        };
        let field = Field { alias, ..self.field(name, MergePatch) };
        let Some(patch) = field.about(about).optional_change() else {
            return was.clone();
        };
        match was.merged(name, patch.unwrap_or(Value::Null)) {
            Ok(merged) => merged,
            Err(mut error) => {
                self.faults.append(&mut error.faults);
                JsonText::empty()
            }
        }
    }

    /// A list of this many JSON values of the client's.
    pub fn own_list(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
    ) -> Field<'_, FreeList> {
        self.field(name, FreeList { count })
    }

    /// The id of another resource.
    pub fn reference<T: ResourceId>(&mut self, name: &'static str) -> Field<'_, Reference<T>> {
        self.field(name, Reference::new())
    }

    /// Describes a field of a document that clients do not set.
    pub fn made<K: Kind>(&mut self, name: &'static str, kind: K, about: &'static str) {
        self.made_optional(name, kind, about, false);
    }

    /// Describes a field of a document that clients do not set, and that may be
    /// `null`.
    pub fn made_optional<K: Kind>(
        &mut self,
        name: &'static str,
        kind: K,
        about: &'static str,
        nullable: bool,
    ) {
        let absence = if nullable { Absence::Null } else { Absence::Fault };
        self.field(name, kind).about(about).find(absence, None);
    }

    /// Any JSON, kept as compact text.
    pub fn json(&mut self, name: &'static str) -> Field<'_, AnyJson> {
        self.field(name, AnyJson)
    }

    /// An object with fields of its own.
    pub fn nested<T, F: Fn(&mut Fields) -> T>(
        &mut self,
        name: &'static str,
        read: F,
    ) -> Field<'_, Nested<F>> {
        self.field(name, Nested { read })
    }

    /// A list of this many objects with fields of their own.
    pub fn items<T, F: Fn(&mut Fields) -> T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        read: F,
    ) -> Field<'_, Items<F>> {
        self.field(name, Items { count, read })
    }

    /// A field, of a kind that has no method of its own here.
    pub fn field<K: Kind>(&mut self, name: &'static str, kind: K) -> Field<'_, K> {
        Field { fields: self, name, alias: None, kind, about: "", example: None }
    }

    /// A field that is known and whose behaviour is not built: a fault when the
    /// client asks for it. `asks` looks at what was sent; `null` never asks.
    pub fn not_supported_yet(
        &mut self,
        name: &'static str,
        asks: impl Fn(&Value) -> bool,
        detail: &'static str,
    ) {
        let pointer = self.pointer(name);
        match &mut self.source {
            Source::Description(described) => {
                let schema = ObjectBuilder::new()
                    .schema_type(SchemaType::AnyValue)
                    .description(Some(format!("Not supported yet: {detail}.")));
                described.push(Described {
                    name,
                    schema: Schema::Object(schema.build()),
                    required: false,
                });
            }
            Source::Body(map) | Source::Query(map) => {
                if map.get(name).is_some_and(|value| !value.is_null() && asks(value)) {
                    self.faults.push(Fault::new(pointer, NOT_SUPPORTED_YET, detail));
                }
            }
        }
    }

    /// Adds a fault that concerns how fields go together.
    pub fn fault(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        let pointer = self.pointer(name);
        self.faults.push(Fault::new(pointer, code, detail));
    }

    /// Adds a fault at a pointer into this object.
    pub fn fault_at(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        let pointer = format!("{}{pointer}", self.at);
        self.faults.push(Fault::new(pointer, code, detail));
    }

    /// Whether a request is read, and no schema described.
    pub fn reads(&self) -> bool {
        !matches!(self.source, Source::Description(_))
    }

    /// Whether nothing was wrong so far, so that values are what was sent.
    pub fn is_faultless(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether a field was sent and is not `null`.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Body(map) | Source::Query(map) => {
                map.get(name).is_some_and(|value| !value.is_null())
            }
            Source::Description(_) => false,
        }
    }

    fn pointer(&self, name: &str) -> String {
        match self.source {
            Source::Query(_) => name.to_owned(),
            Source::Body(_) | Source::Description(_) => pointer(&self.at, name),
        }
    }

    /// Reads an object that stands in this one.
    fn within<T>(
        object: Map<String, Value>,
        purpose: Purpose,
        at: String,
        faults: &mut Vec<Fault>,
        read: impl Fn(&mut Fields) -> T,
    ) -> T {
        let source = Source::Body(object);
        let mut fields = Fields { source, purpose, at, faults: Vec::new() };
        let value = read(&mut fields);
        faults.append(&mut fields.faults);
        value
    }
}

/// A JSON pointer (RFC 6901) one step further.
pub fn pointer(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// One error for all faults. When nothing is wrong but that things are not
/// built yet, the error says that.
fn finish(faults: Vec<Fault>) -> Option<Error> {
    let first = faults.first()?;
    if faults.iter().any(|fault| fault.code != NOT_SUPPORTED_YET) {
        return Some(Error::invalid(faults));
    }
    let mut error =
        Error::new(Code::NotSupportedYet, format!("{}: {}", first.pointer, first.detail));
    error.faults = faults;
    Some(error)
}

/// One field on its way to be read. The last call says what its absence means.
#[must_use = "a field is read by its last call"]
pub struct Field<'f, K> {
    fields: &'f mut Fields,
    name: &'static str,
    alias: Option<&'static str>,
    kind: K,
    about: &'static str,
    example: Option<Value>,
}

enum Found<T> {
    Absent,
    Null,
    /// A value; none when it was faulty.
    Value(Option<T>),
    /// Only described.
    Described,
}

impl<K: Kind> Field<'_, K> {
    /// What it is, for the document.
    pub fn about(mut self, text: &'static str) -> Self {
        self.about = text;
        self
    }

    /// An example, for the document.
    pub fn example(mut self, value: impl Into<Value>) -> Self {
        self.example = Some(value.into());
        self
    }

    /// Another name, read when the first is absent.
    pub fn alias(mut self, name: &'static str) -> Self {
        self.alias = Some(name);
        self
    }

    /// Must be there.
    pub fn required(self) -> K::Out {
        let placeholder = self.kind.placeholder();
        let name = self.name;
        let (found, fields) = self.find(Absence::Fault, None);
        match found {
            Found::Value(Some(value)) => value,
            Found::Absent | Found::Null => {
                fields.fault(name, "required", "is required");
                placeholder
            }
            Found::Value(None) | Found::Described => placeholder,
        }
    }

    /// May be absent.
    pub fn optional(self) -> Option<K::Out> {
        match self.find(Absence::Null, None).0 {
            Found::Value(value) => value,
            Found::Absent | Found::Null | Found::Described => None,
        }
    }

    /// Is set and never shown: none when it is not named, `Some(None)` for `null`.
    pub fn write_only(self) -> Option<Option<K::Out>> {
        if self.fields.purpose == Purpose::Answer {
            return None;
        }
        self.optional_change()
    }

    /// May be absent, which means this.
    pub fn or(self, default: K::Out) -> K::Out {
        let shown = self.kind.show(&default);
        match self.find(Absence::Default, shown).0 {
            Found::Value(Some(value)) => value,
            _ => default,
        }
    }

    /// In a merge patch: none leaves it, `Some(None)` is `null`.
    fn optional_change(self) -> Option<Option<K::Out>> {
        match self.find(Absence::Default, None).0 {
            Found::Value(value) => value.map(Some),
            Found::Null => Some(None),
            Found::Absent | Found::Described => None,
        }
    }
}

/// The last calls for a resource's body: `was` is there in a change.
impl<K: Kind> Field<'_, K>
where
    K::Out: Clone,
{
    /// Must be there in a new body, and cannot be removed.
    pub fn required_or_was(self, was: Option<&K::Out>) -> K::Out {
        let Some(was) = was else { return self.required() };
        let name = self.name;
        let (found, fields) = self.find(Absence::Fault, None);
        match found {
            Found::Value(Some(value)) => value,
            Found::Null => {
                fields.fault(name, "required", "cannot be removed");
                was.clone()
            }
            Found::Value(None) | Found::Absent | Found::Described => was.clone(),
        }
    }

    /// Has a default, which `null` brings back.
    pub fn or_was(self, default: K::Out, was: Option<&K::Out>) -> K::Out {
        let Some(was) = was else { return self.or(default) };
        match self.optional_change() {
            None => was.clone(),
            Some(value) => value.unwrap_or(default),
        }
    }

    /// Has a default that follows from other fields, which `null` brings back.
    pub fn or_else_was(self, default: impl FnOnce() -> K::Out, was: Option<&K::Out>) -> K::Out {
        match (self.optional_change(), was) {
            (None, Some(was)) => was.clone(),
            (sent, _) => sent.flatten().unwrap_or_else(default),
        }
    }

    /// May be absent; `null` removes it.
    pub fn optional_or_was(self, was: Option<&Option<K::Out>>) -> Option<K::Out> {
        let Some(was) = was else { return self.optional() };
        self.optional_change().unwrap_or_else(|| was.clone())
    }
}

impl<K: Kind> Field<'_, K>
where
    K::Out: Clone + PartialEq,
{
    /// May be absent from a new body, and never changes after that.
    pub fn fixed(self, was: Option<&Option<K::Out>>) -> Option<K::Out> {
        let Some(was) = was else { return self.optional() };
        let name = self.name;
        let (found, fields) = self.find(Absence::Null, None);
        let asked = match found {
            Found::Value(Some(value)) => Some(value),
            Found::Null => None,
            Found::Value(None) | Found::Absent | Found::Described => return was.clone(),
        };
        if asked != *was {
            fields.fault(name, "immutable", "cannot be changed");
        }
        was.clone()
    }
}

/// What it means that a field is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// It must be there.
    Fault,
    /// Its default holds.
    Default,
    /// It has no value.
    Null,
}

impl<'f, K: Kind> Field<'f, K> {
    fn find(self, absence: Absence, default: Option<Value>) -> (Found<K::Out>, &'f mut Fields) {
        let Self { fields, name, alias, kind, about, example } = self;
        let purpose = fields.purpose;
        if let Source::Description(described) = &mut fields.source {
            let mut schema = kind.schema(purpose);
            let (required, nullable, default) = match purpose {
                // With another name neither of the two can be required by itself.
                Purpose::Request => {
                    let required = absence == Absence::Fault && alias.is_none();
                    (required, absence != Absence::Fault, default)
                }
                Purpose::Change => (false, absence != Absence::Fault, None),
                Purpose::Answer => (true, absence == Absence::Null, None),
            };
            if nullable {
                allow_null(&mut schema);
            }
            annotate(&mut schema, about, default, example);
            let mut same = schema.clone();
            described.push(Described { name, schema, required });
            if let Some(alias) = alias {
                annotate(&mut same, "Another name of the field above it.", None, None);
                described.push(Described { name: alias, schema: same, required });
            }
            return (Found::Described, fields);
        }
        let (map, from_text) = match &mut fields.source {
            Source::Body(map) => (map, false),
            Source::Query(map) => (map, true),
            Source::Description(_) => return (Found::Described, fields),
        };
        // A name with a value goes before one with null, and the first before
        // the other.
        let rank =
            |name: &'static str| map.get(name).map_or(0, |value| 2 - u8::from(value.is_null()));
        let name = match alias {
            Some(alias) if rank(alias) > rank(name) => alias,
            _ => name,
        };
        let found = match map.remove(name) {
            None => Found::Absent,
            Some(Value::Null) => Found::Null,
            Some(value) => {
                let pointer = fields.pointer(name);
                let mut site =
                    kinds::Site { pointer, purpose, from_text, faults: &mut fields.faults };
                Found::Value(kind.read(value, &mut site))
            }
        };
        (found, fields)
    }
}

fn annotate(schema: &mut Schema, about: &str, default: Option<Value>, example: Option<Value>) {
    let about = (!about.is_empty()).then(|| about.to_owned());
    match schema {
        Schema::Object(object) => {
            object.description = about.or(object.description.take());
            object.default = default;
            object.examples.extend(example);
        }
        Schema::Array(array) => {
            array.description = about.or(array.description.take());
            array.default = default;
            array.examples.extend(example);
        }
        _ => {}
    }
}

fn allow_null(schema: &mut Schema) {
    let (types, names) = match schema {
        Schema::Object(object) => (&mut object.schema_type, object.enum_values.as_mut()),
        Schema::Array(array) => (&mut array.schema_type, None),
        _ => return,
    };
    match types {
        SchemaType::Type(one) => *types = SchemaType::Array(vec![one.clone(), Type::Null]),
        SchemaType::Array(several) => several.push(Type::Null),
        SchemaType::AnyValue => {}
    }
    if let Some(names) = names {
        names.push(Value::Null);
    }
}

/// The body of a new resource.
#[derive(Clone, Debug)]
pub struct Create<R>(pub R);

impl<R: ResourceFields> FromFields for Create<R> {
    fn read(fields: &mut Fields) -> Self {
        Self(R::fields(fields, None))
    }
}

/// A merge patch of a resource's body.
#[derive(Clone, Debug)]
pub struct Change<R> {
    object: Map<String, Value>,
    faults: Vec<Fault>,
    resource: PhantomData<fn() -> R>,
}

impl<R: ResourceFields> Change<R> {
    /// A patch that was sent, and what is wrong with it whatever it is for.
    pub fn new(object: Map<String, Value>, faults: Vec<Fault>) -> Self {
        Self { object, faults, resource: PhantomData }
    }

    /// The body with the patch applied.
    pub fn apply(&self, was: &R) -> Result<R> {
        read_change(self.object.clone(), self.faults.clone(), was)
    }
}

/// A resource's document, for the description of answers.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Shown<R>(PhantomData<fn() -> R>);

macro_rules! resource_schemas {
    ($($type:ident, $purpose:expr, $suffix:literal;)*) => {$(
        impl<R: ResourceFields> utoipa::PartialSchema for $type<R> {
            fn schema() -> RefOr<Schema> {
                resource_schema::<R>($purpose)
            }
        }

        impl<R: ResourceFields> utoipa::ToSchema for $type<R> {
            fn name() -> std::borrow::Cow<'static, str> {
                format!("{}{}", R::NAME, $suffix).into()
            }
        }
    )*};
}

resource_schemas! {
    Create, Purpose::Request, "Create";
    Change, Purpose::Change, "Patch";
    Shown, Purpose::Answer, "";
}

/// Makes a type that is read from fields a schema of the document, under a name.
#[macro_export]
macro_rules! body_schema {
    ($type:ty, $name:literal) => {
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                $crate::fields::schema::<$type>()
            }
        }

        impl utoipa::ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                std::borrow::Cow::Borrowed($name)
            }
        }
    };
}

/// Makes a type that is read from fields the query parameters of an operation.
#[macro_export]
macro_rules! query_parameters {
    ($type:ty) => {
        impl utoipa::IntoParams for $type {
            fn into_params(
                _in: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                $crate::fields::parameters::<$type>()
            }
        }
    };
}
