//! The kinds of fields: how each reads a value, what it refuses, and its schema.

use std::marker::PhantomData;
use std::ops::RangeInclusive;

use agentry_domain::{FREE_JSON_BYTES_MAX, Fault, JsonText, Named, ResourceId, Timestamp};
use serde_json::{Map, Value};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat,
    SchemaType, Type,
};

use super::{Fields, Purpose, object_schema, pointer};

/// Characters of a caller's own id at most.
pub const EXTERNAL_ID_CHARS_MAX: usize = 256;

/// A kind of field.
pub trait Kind {
    /// What reading yields.
    type Out;

    /// Its schema, as clients write it or as they read it.
    fn schema(&self, purpose: Purpose) -> Schema;

    /// Reads a value that is not `null`; none after a fault.
    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Self::Out>;

    /// What a faulty field yields, so that reading goes on. Nobody sees it.
    fn placeholder(&self) -> Self::Out;

    /// How a default is shown in the document.
    fn show(&self, _default: &Self::Out) -> Option<Value> {
        None
    }
}

/// Where a value stands, and where its faults go.
#[derive(Debug)]
pub struct Site<'a> {
    pub(super) pointer: String,
    pub(super) purpose: Purpose,
    pub(super) from_text: bool,
    pub(super) faults: &'a mut Vec<Fault>,
}

impl Site<'_> {
    /// Adds a fault; gives none, for the reader to return.
    pub fn fault<T>(&mut self, code: &'static str, detail: impl Into<String>) -> Option<T> {
        self.faults.push(Fault::new(self.pointer.clone(), code, detail));
        None
    }

    /// Adds a fault at a pointer into the value; gives none, for the reader to return.
    pub fn fault_within<T>(
        &mut self,
        pointer: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Option<T> {
        self.faults.push(Fault::new(format!("{}{pointer}", self.pointer), code, detail));
        None
    }

    /// Whether values come as text, as in a query.
    pub fn from_text(&self) -> bool {
        self.from_text
    }
}

fn of_type(schema_type: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(schema_type)
}

/// Text of a number of characters.
#[derive(Clone, Debug)]
pub struct Text {
    pub(super) chars: RangeInclusive<usize>,
}

impl Text {
    /// Of this many characters.
    pub fn of(chars: RangeInclusive<usize>) -> Self {
        Self { chars }
    }
}

impl Kind for Text {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let (min, max) = (*self.chars.start(), *self.chars.end());
        let object =
            of_type(Type::String).min_length((min > 0).then_some(min)).max_length(Some(max));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        let Value::String(text) = value else {
            return site.fault("wrong_type", "must be a string");
        };
        check_length(&text, &self.chars, site)?;
        Some(text)
    }

    fn placeholder(&self) -> String {
        String::new()
    }

    fn show(&self, default: &String) -> Option<Value> {
        Some(Value::String(default.clone()))
    }
}

fn check_length(text: &str, chars: &RangeInclusive<usize>, site: &mut Site<'_>) -> Option<()> {
    // Bytes are at least as many as characters; most texts need no counting.
    let count = if text.len() <= *chars.end() && text.len() >= *chars.start() * 4 {
        return Some(());
    } else {
        text.chars().count()
    };
    if count < *chars.start() {
        return site.fault("too_short", format!("must have {} characters or more", chars.start()));
    }
    if count > *chars.end() {
        return site.fault("too_long", format!("must have {} characters at most", chars.end()));
    }
    Some(())
}

/// A caller's own id.
#[derive(Clone, Copy, Debug)]
pub struct ExternalId;

impl Kind for ExternalId {
    type Out = String;

    fn schema(&self, purpose: Purpose) -> Schema {
        let types = match purpose {
            Purpose::Request | Purpose::Change => {
                SchemaType::Array(vec![Type::String, Type::Integer])
            }
            Purpose::Answer => SchemaType::Type(Type::String),
        };
        let object = ObjectBuilder::new()
            .schema_type(types)
            .min_length(Some(1))
            .max_length(Some(EXTERNAL_ID_CHARS_MAX));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return site.fault("wrong_type", "must be a string or an integer"),
        };
        check_length(&text, &(1..=EXTERNAL_ID_CHARS_MAX), site)?;
        Some(text)
    }

    fn placeholder(&self) -> String {
        String::new()
    }
}

/// An integer in a range.
#[derive(Clone, Debug)]
pub struct Integer {
    pub(super) range: RangeInclusive<i64>,
}

impl Integer {
    /// In this range.
    pub fn between(range: RangeInclusive<i64>) -> Self {
        Self { range }
    }
}

impl Kind for Integer {
    type Out = i64;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let object = of_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(utoipa::Number::Int(bound(*self.range.start()))))
            .maximum(Some(utoipa::Number::Int(bound(*self.range.end()))));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<i64> {
        let integer = match &value {
            Value::String(text) if site.from_text => text.parse().ok(),
            Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
            _ => None,
        };
        let Some(integer) = integer else {
            return site.fault("wrong_type", "must be an integer");
        };
        if !self.range.contains(&integer) {
            let (min, max) = (self.range.start(), self.range.end());
            return site.fault("out_of_range", format!("must be between {min} and {max}"));
        }
        Some(integer)
    }

    fn placeholder(&self) -> i64 {
        *self.range.start()
    }

    fn show(&self, default: &i64) -> Option<Value> {
        Some(Value::from(*default))
    }
}

fn bound(value: i64) -> isize {
    isize::try_from(value).unwrap_or(if value < 0 { isize::MIN } else { isize::MAX })
}

/// JSON has one kind of number: `5.0` is the integer 5.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// A UUID of the server's; only described.
#[derive(Clone, Copy, Debug)]
pub struct Uuid;

/// An instant of the server's; only described.
#[derive(Clone, Copy, Debug)]
pub struct Time;

macro_rules! made_text {
    ($($kind:ident, $format:expr;)*) => {$(
        impl Kind for $kind {
            type Out = ();

            fn schema(&self, _purpose: Purpose) -> Schema {
                Schema::Object(of_type(Type::String).format(Some($format)).build())
            }

            fn read(&self, _value: Value, site: &mut Site<'_>) -> Option<()> {
                site.fault("not_allowed", "is made by the server")
            }

            fn placeholder(&self) {}
        }
    )*};
}

made_text! {
    Uuid, SchemaFormat::Custom("uuid".to_owned());
    Time, SchemaFormat::KnownFormat(KnownFormat::DateTime);
}

/// `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub struct Boolean;

impl Kind for Boolean {
    type Out = bool;

    fn schema(&self, _purpose: Purpose) -> Schema {
        Schema::Object(of_type(Type::Boolean).build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<bool> {
        match value {
            Value::Bool(value) => Some(value),
            Value::String(text) if site.from_text && text == "true" => Some(true),
            Value::String(text) if site.from_text && text == "false" => Some(false),
            _ => site.fault("wrong_type", "must be true or false"),
        }
    }

    fn placeholder(&self) -> bool {
        false
    }

    fn show(&self, default: &bool) -> Option<Value> {
        Some(Value::Bool(*default))
    }
}

/// One of the names of an enum.
#[derive(Clone, Copy, Debug)]
pub struct Choice<T>(PhantomData<T>);

impl<T> Choice<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Named> Kind for Choice<T> {
    type Out = T;

    fn schema(&self, purpose: Purpose) -> Schema {
        let spellings = T::SPELLINGS.iter().map(|(spelling, _)| *spelling);
        let read = if purpose == Purpose::Answer { 0 } else { usize::MAX };
        let names = T::ALL.iter().map(|value| value.text()).chain(spellings.take(read));
        Schema::Object(of_type(Type::String).enum_values(Some(names)).build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<T> {
        let Value::String(text) = value else {
            return site.fault("wrong_type", "must be a string");
        };
        match T::of_text(&text) {
            Some(value) => Some(value),
            None => {
                let names: Vec<_> = T::ALL.iter().map(|value| value.text()).collect();
                site.fault("not_allowed", format!("must be one of {}", names.join(", ")))
            }
        }
    }

    fn placeholder(&self) -> T {
        T::ALL[0]
    }

    fn show(&self, default: &T) -> Option<Value> {
        Some(Value::from(default.text()))
    }
}

/// A list of names of an enum, each at most once.
#[derive(Clone, Copy, Debug)]
pub struct Choices<T>(PhantomData<T>);

impl<T> Choices<T> {
    /// Of this enum.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Choices<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Named + PartialEq> Kind for Choices<T> {
    type Out = Vec<T>;

    fn schema(&self, purpose: Purpose) -> Schema {
        unique(list_schema(Choice::<T>::new().schema(purpose), &(0..=T::ALL.len())))
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<T>> {
        let Value::Array(names) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        let mut chosen = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let at = pointer(&site.pointer, &index.to_string());
            let faults = &mut *site.faults;
            let mut entry =
                Site { pointer: at, purpose: site.purpose, from_text: site.from_text, faults };
            match Choice::<T>::new().read(name, &mut entry) {
                Some(name) if chosen.contains(&name) => {
                    entry.fault::<()>("not_unique", "stands there already");
                }
                name => chosen.extend(name),
            }
        }
        Some(chosen)
    }

    fn placeholder(&self) -> Vec<T> {
        Vec::new()
    }

    fn show(&self, default: &Vec<T>) -> Option<Value> {
        Some(default.iter().map(|value| value.text()).collect())
    }
}

/// An instant of the client's.
#[derive(Clone, Copy, Debug)]
pub struct Instant;

impl Kind for Instant {
    type Out = Timestamp;

    fn schema(&self, purpose: Purpose) -> Schema {
        Time.schema(purpose)
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Timestamp> {
        if !value.is_string() {
            return site.fault("wrong_type", "must be a string");
        }
        match serde_json::from_value(value) {
            Ok(instant) => Some(instant),
            Err(_) => site.fault("malformed", "must be an instant as in RFC 3339, with its offset"),
        }
    }

    fn placeholder(&self) -> Timestamp {
        Timestamp::from_micros(0)
    }
}

fn check_count(found: usize, count: &RangeInclusive<usize>, site: &mut Site<'_>) -> Option<()> {
    if found < *count.start() {
        return site.fault("too_few", format!("must have {} entries or more", count.start()));
    }
    if found > *count.end() {
        return site.fault("too_many", format!("must have {} entries at most", count.end()));
    }
    Some(())
}

/// The schema of a list of this many entries.
pub fn list_schema(items: Schema, count: &RangeInclusive<usize>) -> Schema {
    let array = ArrayBuilder::new()
        .items(utoipa::openapi::RefOr::T(items))
        .min_items((*count.start() > 0).then_some(*count.start()))
        .max_items(Some(*count.end()));
    Schema::Array(array.build())
}

/// A list of this many texts; in a query they stand between commas.
#[derive(Clone, Debug)]
pub struct Texts {
    /// How many there may be.
    pub count: RangeInclusive<usize>,
    /// How many characters each may have.
    pub chars: RangeInclusive<usize>,
}

impl Kind for Texts {
    type Out = Vec<String>;

    fn schema(&self, purpose: Purpose) -> Schema {
        list_schema(Text { chars: self.chars.clone() }.schema(purpose), &self.count)
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<String>> {
        let values = match value {
            Value::Array(values) => values,
            Value::String(text) if site.from_text => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(|item| Value::String(item.to_owned())).collect()
            }
            _ => return site.fault("wrong_type", "must be a list"),
        };
        check_count(values.len(), &self.count, site)?;
        let text = Text { chars: self.chars.clone() };
        let mut texts = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let pointer = pointer(&site.pointer, &index.to_string());
            let mut site = Site { pointer, faults: &mut *site.faults, ..*site };
            texts.extend(text.read(value, &mut site));
        }
        Some(texts)
    }

    fn placeholder(&self) -> Vec<String> {
        Vec::new()
    }

    fn show(&self, default: &Vec<String>) -> Option<Value> {
        serde_json::to_value(default).ok()
    }
}

/// A number in a range, kept as it was sent.
#[derive(Clone, Debug)]
pub struct Number {
    /// What it may be.
    pub range: RangeInclusive<f64>,
}

impl Kind for Number {
    type Out = Value;

    fn schema(&self, _purpose: Purpose) -> Schema {
        let object = of_type(Type::Number)
            .minimum(Some(utoipa::Number::Float(*self.range.start())))
            .maximum(Some(utoipa::Number::Float(*self.range.end())));
        Schema::Object(object.build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Value> {
        let Some(number) = value.as_f64() else {
            return site.fault("wrong_type", "must be a number");
        };
        if !self.range.contains(&number) {
            let (min, max) = (self.range.start(), self.range.end());
            return site.fault("out_of_range", format!("must be between {min} and {max}"));
        }
        Some(value)
    }

    fn placeholder(&self) -> Value {
        Value::Null
    }
}

fn free_object_schema() -> Schema {
    let object =
        of_type(Type::Object).additional_properties(Some(AdditionalProperties::FreeForm(true)));
    Schema::Object(object.build())
}

fn compact(value: &Value, site: &mut Site<'_>) -> Option<String> {
    let text = value.to_string();
    if text.len() > FREE_JSON_BYTES_MAX {
        let detail = format!("must have {FREE_JSON_BYTES_MAX} bytes at most");
        return site.fault("too_large", detail);
    }
    Some(text)
}

/// The client's own JSON object, as compact text.
#[derive(Clone, Copy, Debug)]
pub struct FreeObject;

impl Kind for FreeObject {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        free_object_schema()
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        if value.is_object() {
            compact(&value, site)
        } else {
            site.fault("wrong_type", "must be an object")
        }
    }

    fn placeholder(&self) -> String {
        "{}".to_owned()
    }

    fn show(&self, default: &String) -> Option<Value> {
        serde_json::from_str(default).ok()
    }
}

/// A list of the client's own JSON values, as compact text.
#[derive(Clone, Debug)]
pub struct FreeList {
    /// How many there may be.
    pub count: RangeInclusive<usize>,
}

impl Kind for FreeList {
    type Out = JsonText;

    fn schema(&self, purpose: Purpose) -> Schema {
        list_schema(AnyJson.schema(purpose), &self.count)
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<JsonText> {
        let Value::Array(values) = &value else {
            return site.fault("wrong_type", "must be a list");
        };
        check_count(values.len(), &self.count, site)?;
        compact(&value, site).map(JsonText::known)
    }

    fn placeholder(&self) -> JsonText {
        JsonText::empty_list()
    }

    fn show(&self, default: &JsonText) -> Option<Value> {
        serde_json::from_str(default.as_str()).ok()
    }
}

/// The id of another resource. That it is there is the engine's to say.
#[derive(Clone, Copy, Debug)]
pub struct Reference<T>(PhantomData<T>);

impl<T> Reference<T> {
    /// To this kind of resource.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Reference<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: ResourceId> Kind for Reference<T> {
    type Out = T;

    fn schema(&self, purpose: Purpose) -> Schema {
        Uuid.schema(purpose)
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<T> {
        let Value::String(text) = value else {
            return site.fault("wrong_type", "must be a string");
        };
        match text.parse() {
            Ok(id) => Some(id),
            Err(_) => site.fault("not_an_id", "must be the id of a resource, a UUID"),
        }
    }

    fn placeholder(&self) -> T {
        T::of_bytes([0; 16])
    }
}

/// The ids of other resources, each once.
#[derive(Clone, Debug)]
pub struct References<T> {
    count: RangeInclusive<usize>,
    to: Reference<T>,
}

impl<T> References<T> {
    /// This many, to this kind of resource.
    pub fn of(count: RangeInclusive<usize>) -> Self {
        Self { count, to: Reference::new() }
    }
}

impl<T: ResourceId> Kind for References<T> {
    type Out = Vec<T>;

    fn schema(&self, purpose: Purpose) -> Schema {
        unique(list_schema(self.to.schema(purpose), &self.count))
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<T>> {
        let Value::Array(values) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        check_count(values.len(), &self.count, site)?;
        let mut ids = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let pointer = pointer(&site.pointer, &index.to_string());
            let mut site = Site { pointer, faults: &mut *site.faults, ..*site };
            match self.to.read(value, &mut site) {
                Some(id) if ids.contains(&id) => site.fault("duplicate", "stands here twice")?,
                Some(id) => ids.push(id),
                None => {}
            }
        }
        Some(ids)
    }

    fn placeholder(&self) -> Vec<T> {
        Vec::new()
    }

    fn show(&self, default: &Vec<T>) -> Option<Value> {
        serde_json::to_value(default).ok()
    }
}

/// A merge patch for the client's own JSON object.
#[derive(Clone, Copy, Debug)]
pub struct MergePatch;

impl Kind for MergePatch {
    type Out = Value;

    fn schema(&self, _purpose: Purpose) -> Schema {
        free_object_schema()
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Value> {
        if !value.is_object() {
            return site.fault("wrong_type", "must be an object");
        }
        compact(&value, site)?;
        Some(value)
    }

    fn placeholder(&self) -> Value {
        Value::Object(Map::new())
    }
}

/// Any JSON, as compact text.
#[derive(Clone, Copy, Debug)]
pub struct AnyJson;

impl Kind for AnyJson {
    type Out = String;

    fn schema(&self, _purpose: Purpose) -> Schema {
        Schema::Object(ObjectBuilder::new().schema_type(SchemaType::AnyValue).build())
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<String> {
        compact(&value, site)
    }

    fn placeholder(&self) -> String {
        String::new()
    }
}

/// An object with fields of its own.
#[derive(Clone, Copy, Debug)]
pub struct Nested<F> {
    pub(super) read: F,
}

impl<T, F: Fn(&mut Fields) -> T> Kind for Nested<F> {
    type Out = T;

    fn schema(&self, purpose: Purpose) -> Schema {
        object_schema(purpose, &|fields| {
            (self.read)(fields);
        })
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<T> {
        match value {
            Value::Object(object) => {
                let at = site.pointer.clone();
                Some(Fields::within(object, site.purpose, at, site.faults, &self.read))
            }
            _ => site.fault("wrong_type", "must be an object"),
        }
    }

    fn placeholder(&self) -> T {
        (self.read)(&mut Fields::description(Purpose::Request))
    }
}

/// A list of objects with fields of their own.
#[derive(Clone, Debug)]
pub struct Items<F> {
    pub(super) count: RangeInclusive<usize>,
    pub(super) read: F,
}

impl<T, F: Fn(&mut Fields) -> T> Kind for Items<F> {
    type Out = Vec<T>;

    fn schema(&self, purpose: Purpose) -> Schema {
        let item = object_schema(purpose, &|fields| {
            (self.read)(fields);
        });
        list_schema(item, &self.count)
    }

    fn read(&self, value: Value, site: &mut Site<'_>) -> Option<Vec<T>> {
        let Value::Array(values) = value else {
            return site.fault("wrong_type", "must be a list");
        };
        check_count(values.len(), &self.count, site)?;
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let at = pointer(&site.pointer, &index.to_string());
            if let Value::Object(object) = value {
                items.push(Fields::within(object, site.purpose, at, site.faults, &self.read));
            } else {
                site.faults.push(Fault::new(at, "wrong_type", "must be an object"));
            }
        }
        Some(items)
    }

    fn placeholder(&self) -> Vec<T> {
        Vec::new()
    }
}

/// The schema of text of 1 to so many characters that has a form.
pub fn pattern_schema(chars_max: usize, pattern: &'static str) -> Schema {
    let object = of_type(Type::String).min_length(Some(1)).max_length(Some(chars_max));
    Schema::Object(object.pattern(Some(pattern)).build())
}

/// The schema of a list in which nothing stands twice.
fn unique(mut schema: Schema) -> Schema {
    if let Schema::Array(list) = &mut schema {
        list.unique_items = true;
    }
    schema
}

/// The schema of text that is one of these.
pub fn one_of_schema<const N: usize>(names: [&'static str; N]) -> Schema {
    Schema::Object(of_type(Type::String).enum_values(Some(names)).build())
}
