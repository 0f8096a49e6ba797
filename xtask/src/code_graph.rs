//! `cargo xtask code-graph`: this repository as a graph, in the JSON lines that
//! `POST /graph/import` reads. Nodes are crates, modules and functions; edges say
//! what contains what, which crate or module imports which, and which function calls
//! which.
//!
//! It reads tokens, not types. A call is taken for one of a function here when its
//! path, or the type it is a method of, leads to exactly one; what could be several is
//! left out. Tests are left out too. So what is found is there, and not all is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::workspace::{cargo, output, root};

/// Words that stand before a parenthesis and call nothing.
const KEYWORDS: &[&str] = &[
    "as", "async", "await", "box", "break", "continue", "else", "fn", "for", "if", "impl", "in",
    "let", "loop", "match", "move", "mut", "pub", "ref", "return", "unsafe", "where", "while",
];

/// Writes the graph of the checkout.
///
/// # Errors
/// When cargo or a file cannot be read, or the output not written.
pub fn write(out: &mut impl Write) -> Result<Counts> {
    let mut program = Program::default();
    for package in packages()? {
        program.read(&package)?;
    }
    program.write(out)
}

/// How much was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Crates, modules and functions.
    pub nodes: usize,
    /// Edges of each kind: contains, imports, calls.
    pub edges: [usize; 3],
}

/// A crate of the workspace.
struct Package {
    /// As code names it.
    name: String,
    src: PathBuf,
    /// Crates of the workspace that it uses.
    uses: Vec<String>,
}

fn packages() -> Result<Vec<Package>> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&output(&mut command)?)?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let in_code = |name: &Value| text(name).replace('-', "_");
    let members: BTreeSet<String> = packages.iter().map(|it| in_code(&it["name"])).collect();
    let package = |it: &Value| {
        let manifest = PathBuf::from(text(&it["manifest_path"]));
        let needed = it["dependencies"].as_array().into_iter().flatten();
        let needed = needed.filter(|it| it["kind"].is_null()).map(|it| in_code(&it["name"]));
        Package {
            name: in_code(&it["name"]),
            src: manifest.with_file_name("src"),
            uses: needed.filter(|name| members.contains(name)).collect(),
        }
    };
    Ok(packages.iter().map(package).collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
}

impl Token {
    fn is(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }

    fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Sign(_) => None,
        }
    }
}

/// The words and signs of Rust code, each with its line; comments, texts, numbers and
/// lifetimes are left out.
fn tokens(text: &str) -> Vec<(Token, u32)> {
    let chars: Vec<char> = text.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut place, mut line) = (Vec::new(), 0, 1);
    while place < chars.len() {
        let (begin, c) = (place, at(place));
        if c == '/' && at(place + 1) == '/' {
            while place < chars.len() && at(place) != '\n' {
                place += 1;
            }
        } else if c == '/' && at(place + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(place), at(place + 1)) {
                    ('/', '*') => (depth, place) = (depth + 1, place + 2),
                    ('*', '/') => (depth, place) = (depth - 1, place + 2),
                    _ => place += 1,
                }
                if depth == 0 || place >= chars.len() {
                    break;
                }
            }
        } else if let Some(hashes) = raw_text(&chars, place) {
            place += hashes.0;
            let end = |from: usize| at(from) == '"' && (1..=hashes.1).all(|n| at(from + n) == '#');
            while place < chars.len() && !end(place) {
                place += 1;
            }
            place += 1 + hashes.1;
        } else if c == '"' || ((c == 'b' || c == 'c') && at(place + 1) == '"') {
            place += if c == '"' { 1 } else { 2 };
            while place < chars.len() && at(place) != '"' {
                place += if at(place) == '\\' { 2 } else { 1 };
            }
            place += 1;
        } else if c == '\'' {
            let is_char = at(place + 1) == '\\' || at(place + 2) == '\'';
            place += 1;
            if is_char {
                while place < chars.len() && at(place) != '\'' {
                    place += if at(place) == '\\' { 2 } else { 1 };
                }
                place += 1;
            } else {
                while is_word(at(place)) {
                    place += 1;
                }
            }
        } else if c.is_ascii_digit() {
            while is_word(at(place)) || (at(place) == '.' && at(place + 1).is_ascii_digit()) {
                place += 1;
            }
        } else if is_word(c) {
            while is_word(at(place)) {
                place += 1;
            }
            found.push((Token::Word(chars[begin..place].iter().collect()), line));
        } else {
            place += 1;
            if !c.is_whitespace() {
                found.push((Token::Sign(c), line));
            }
        }
        let passed = chars[begin..place.min(chars.len())].iter().filter(|c| **c == '\n');
        line += u32::try_from(passed.count()).unwrap_or(0);
    }
    found
}

/// Of a raw text that begins here: how many characters come before what it says, and
/// how many `#` end it.
fn raw_text(chars: &[char], begin: usize) -> Option<(usize, usize)> {
    let before = begin.checked_sub(1).map(|before| chars[before]);
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let prefix = match (chars.get(begin)?, chars.get(begin + 1)?) {
        ('r', '"' | '#') => 1,
        ('b' | 'c', 'r') => 2,
        _ => return None,
    };
    let hashes = chars[begin + prefix..].iter().take_while(|c| **c == '#').count();
    (chars.get(begin + prefix + hashes) == Some(&'"')).then_some((prefix + hashes + 1, hashes))
}

/// A function.
#[derive(Debug)]
struct Function {
    /// The crate and the modules that it is in.
    module: Vec<String>,
    /// The type or trait that it is of.
    of: Option<String>,
    name: String,
    file: String,
    line: u32,
    calls: Vec<Call>,
}

impl Function {
    /// What it is called, with the type that it is of.
    fn short(&self) -> String {
        match &self.of {
            Some(of) => format!("{of}::{}", self.name),
            None => self.name.clone(),
        }
    }

    fn full(&self) -> String {
        format!("{}::{}", self.module.join("::"), self.short())
    }
}

/// A call as it stands in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    /// By a path of names.
    Path(Vec<String>),
    /// Of a method, of `self` or of something else.
    Method { of_self: bool, name: String },
}

/// What a brace belongs to.
#[derive(Clone, Debug)]
enum Scope {
    Module,
    Type(Option<String>),
    Function(usize),
    Other,
}

#[derive(Default)]
struct Program {
    crates: Vec<(String, Vec<String>)>,
    modules: BTreeMap<Vec<String>, String>,
    functions: Vec<Function>,
    /// What each module's names stand for.
    names: HashMap<Vec<String>, HashMap<String, Vec<String>>>,
    imports: BTreeSet<(Vec<String>, Vec<String>)>,
}

impl Program {
    fn read(&mut self, package: &Package) -> Result<()> {
        self.crates.push((package.name.clone(), package.uses.clone()));
        let mut files = Vec::new();
        find_files(&package.src, &mut files)?;
        files.sort();
        for file in files {
            let inside = file.strip_prefix(&package.src)?.with_extension("");
            let mut module = vec![package.name.clone()];
            let parts = inside.iter().map(|part| part.to_string_lossy().into_owned());
            module.extend(parts.filter(|part| !["lib", "main", "mod"].contains(&part.as_str())));
            if module.iter().any(|part| part == "tests") {
                continue;
            }
            let shown = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&file)?;
            self.modules.insert(module.clone(), shown.clone());
            Reader {
                program: self,
                tokens: tokens(&text),
                module,
                file: shown,
                scopes: Vec::new(),
            }
            .read();
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut line = |value: Value| -> Result<()> { Ok(writeln!(out, "{value}")?) };
        for (name, _) in &self.crates {
            counts.nodes += 1;
            line(node(&format!("crate:{name}"), "crate", name, &json!({}), &[]))?;
        }
        for (module, file) in self.modules.iter().filter(|(module, _)| module.len() > 1) {
            let name = module.join("::");
            counts.nodes += 1;
            line(node(&key(module), "module", &name, &json!({"file": file}), &[]))?;
        }
        let mut written = BTreeSet::new();
        for function in &self.functions {
            let full = function.full();
            if written.insert(full.clone()) {
                let place = json!({"file": function.file, "line": function.line});
                counts.nodes += 1;
                line(node(&format!("fn:{full}"), "function", &function.short(), &place, &[&full]))?;
            }
        }
        for module in self.modules.keys().filter(|module| module.len() > 1) {
            counts.edges[0] += 1;
            // A directory of programs is no module.
            let around = self.module_of(&module[..module.len() - 1]);
            let around = around.unwrap_or_else(|| module[..1].to_vec());
            line(edge(&key(&around), &key(module), "contains", 1))?;
        }
        for (full, function) in self.functions.iter().map(|it| (it.full(), it)) {
            if written.remove(&full) {
                counts.edges[0] += 1;
                line(edge(&key(&function.module), &format!("fn:{full}"), "contains", 1))?;
            }
        }
        for (name, uses) in &self.crates {
            for used in uses {
                counts.edges[1] += 1;
                line(edge(&format!("crate:{name}"), &format!("crate:{used}"), "imports", 1))?;
            }
        }
        for (from, to) in &self.imports {
            let to = self.module_of(to);
            if let Some(to) = to.filter(|to| to != from && to.len() > 1) {
                counts.edges[1] += 1;
                line(edge(&key(from), &key(&to), "imports", 1))?;
            }
        }
        for ((from, to), count) in self.calls() {
            counts.edges[2] += 1;
            line(edge(&format!("fn:{from}"), &format!("fn:{to}"), "calls", count))?;
        }
        Ok(counts)
    }

    /// The module that a path is of or in.
    fn module_of(&self, path: &[String]) -> Option<Vec<String>> {
        (1..=path.len())
            .rev()
            .map(|n| &path[..n])
            .find_map(|part| self.modules.contains_key(part).then(|| part.to_vec()))
    }

    /// Who calls whom, and how often.
    fn calls(&self) -> BTreeMap<(String, String), u64> {
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, function) in self.functions.iter().enumerate() {
            by_name.entry(&function.name).or_default().push(place);
        }
        let mut calls = BTreeMap::new();
        for function in &self.functions {
            for call in &function.calls {
                if let Some(called) = self.called(function, call, &by_name) {
                    *calls.entry((function.full(), self.functions[called].full())).or_default() +=
                        1;
                }
            }
        }
        calls
    }

    fn called(
        &self,
        from: &Function,
        call: &Call,
        by_name: &HashMap<&str, Vec<usize>>,
    ) -> Option<usize> {
        let path = match call {
            Call::Path(path) => self.absolute(from, path),
            Call::Method { name, .. } => vec![name.clone()],
        };
        let name = path.last()?;
        let candidates = by_name.get(name.as_str())?;
        let only = |fits: &dyn Fn(&Function) -> bool| {
            let fitting: BTreeSet<String> = candidates
                .iter()
                .map(|place| &self.functions[*place])
                .filter(|function| fits(function))
                .map(Function::full)
                .collect();
            let first = candidates.iter().find(|place| fits(&self.functions[**place]));
            (fitting.len() == 1).then_some(first.copied()).flatten()
        };
        match call {
            Call::Method { of_self: true, .. } if from.of.is_some() => {
                let here = |it: &Function| it.of == from.of && it.module[0] == from.module[0];
                only(&|it| here(it) && it.module == from.module).or_else(|| only(&here))
            }
            Call::Method { .. } => only(&|it| it.of.is_some()),
            Call::Path(_) => {
                let (of, module) = match path.get(..path.len().checked_sub(1)?)? {
                    [] => return None,
                    [module @ .., of] if of.starts_with(char::is_uppercase) => (Some(of), module),
                    module => (None, module),
                };
                let exact = |it: &Function| it.of.as_ref() == of && it.module == module;
                only(&exact).or_else(|| {
                    // A type, or a module, whose name is enough; first within the crate.
                    let fits = |it: &Function| match of {
                        Some(_) => it.of.as_ref() == of,
                        None => it.of.is_none() && it.module.last() == module.last(),
                    };
                    let first = module.first();
                    only(&|it| {
                        fits(it) && Some(&it.module[0]) == first.filter(|_| module.len() > 1)
                    })
                    .or_else(|| only(&fits))
                })
            }
        }
    }

    /// A path as it would be from the outside.
    fn absolute(&self, from: &Function, path: &[String]) -> Vec<String> {
        if path.first().is_some_and(|first| first == "Self") {
            let of = from.of.clone();
            return from
                .module
                .iter()
                .cloned()
                .chain(of)
                .chain(path[1..].iter().cloned())
                .collect();
        }
        let names = self.names.get(&from.module);
        let meant = path.first().and_then(|first| names?.get(first));
        if let Some(meant) = meant {
            return meant.iter().chain(&path[1..]).cloned().collect();
        }
        let path = expand(&from.module, path);
        if path.len() == 1 || path[0].starts_with(char::is_uppercase) {
            return from.module.iter().cloned().chain(path).collect();
        }
        let below: Vec<String> = from.module.iter().chain(&path).cloned().collect();
        if self.modules.contains_key(&below[..below.len() - 1]) { below } else { path }
    }
}

fn key(module: &[String]) -> String {
    match module {
        [name] => format!("crate:{name}"),
        path => format!("mod:{}", path.join("::")),
    }
}

fn node(key: &str, kind: &str, name: &str, properties: &Value, aliases: &[&str]) -> Value {
    json!({
        "type": "node", "key": key, "kind": kind, "name": name, "aliases": aliases,
        "language": "rust", "properties": properties,
    })
}

fn edge(from: &str, to: &str, kind: &str, weight: u64) -> Value {
    json!({"type": "edge", "from": from, "to": to, "kind": kind, "weight": weight})
}

fn find_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// A path whose first words say where it begins.
fn expand(module: &[String], path: &[String]) -> Vec<String> {
    let mut base = match path.first().map(String::as_str) {
        Some("crate") => module[..1].to_vec(),
        Some("self" | "super") => module.to_vec(),
        _ => return path.to_vec(),
    };
    let mut rest = path;
    while let Some(first) = rest.first() {
        match first.as_str() {
            "super" if base.len() > 1 => drop(base.pop()),
            "crate" | "self" => {}
            _ => break,
        }
        rest = &rest[1..];
    }
    base.into_iter().chain(rest.iter().cloned()).collect()
}

/// Reads one file.
struct Reader<'a> {
    program: &'a mut Program,
    tokens: Vec<(Token, u32)>,
    module: Vec<String>,
    file: String,
    scopes: Vec<Scope>,
}

impl Reader<'_> {
    fn word(&self, place: usize) -> Option<&str> {
        self.tokens.get(place)?.0.word()
    }

    fn is(&self, place: usize, sign: char) -> bool {
        self.tokens.get(place).is_some_and(|(token, _)| token.is(sign))
    }

    fn read(mut self) {
        let mut place = 0;
        while place < self.tokens.len() {
            place = self.step(place);
        }
    }

    fn step(&mut self, place: usize) -> usize {
        match self.word(place) {
            Some("use") if !self.in_function() => self.read_use(place + 1),
            Some("macro_rules") => self.skip_block(place),
            Some("mod") if self.word(place + 1).is_some() && self.is(place + 2, '{') => {
                let name = self.word(place + 1).unwrap_or_default().to_owned();
                if name == "tests" {
                    return self.skip_block(place);
                }
                self.module.push(name);
                let file = self.file.clone();
                self.program.modules.entry(self.module.clone()).or_insert(file);
                self.scopes.push(Scope::Module);
                place + 3
            }
            Some("impl" | "trait") if !self.in_function() => self.read_type(place),
            Some("fn") if self.word(place + 1).is_some() => self.read_function(place),
            _ if self.is(place, '{') => {
                self.scopes.push(Scope::Other);
                place + 1
            }
            _ if self.is(place, '}') => {
                if matches!(self.scopes.pop(), Some(Scope::Module)) {
                    self.module.pop();
                }
                place + 1
            }
            _ if self.is(place, '(') => {
                self.read_call(place);
                place + 1
            }
            _ => place + 1,
        }
    }

    fn in_function(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, Scope::Function(_)))
    }

    /// The place after the block that begins next.
    fn skip_block(&self, mut place: usize) -> usize {
        while place < self.tokens.len() && !self.is(place, '{') {
            place += 1;
        }
        let mut depth = 0;
        while place < self.tokens.len() {
            depth += i32::from(self.is(place, '{')) - i32::from(self.is(place, '}'));
            place += 1;
            if depth == 0 {
                break;
            }
        }
        place
    }

    /// The place after generic arguments that begin here.
    fn skip_angles(&self, mut place: usize) -> usize {
        let mut depth = 0;
        while place < self.tokens.len() {
            let is_arrow = self.is(place, '>') && place > 0 && self.is(place - 1, '-');
            depth += i32::from(self.is(place, '<'));
            depth -= i32::from(self.is(place, '>') && !is_arrow);
            place += 1;
            if depth == 0 {
                break;
            }
        }
        place
    }

    /// `impl Trait for Type {`, `impl Type {` or `trait Name {`.
    fn read_type(&mut self, mut place: usize) -> usize {
        place += 1;
        let mut of = None;
        while place < self.tokens.len() && !self.is(place, '{') && !self.is(place, ';') {
            if self.is(place, '<') {
                place = self.skip_angles(place);
                continue;
            }
            match self.word(place) {
                Some("for") => of = None,
                Some("where") => break,
                Some("dyn" | "mut" | "const" | "unsafe") | None => {
                    // What a trait needs stands behind a colon.
                    let is_path = self.is(place + 1, ':') || (place > 0 && self.is(place - 1, ':'));
                    if self.is(place, ':') && !is_path {
                        break;
                    }
                }
                Some(word) => of = Some(word.to_owned()),
            }
            place += 1;
        }
        while place < self.tokens.len() && !self.is(place, '{') && !self.is(place, ';') {
            place += 1;
        }
        if self.is(place, '{') {
            self.scopes.push(Scope::Type(of));
        }
        place + 1
    }

    fn read_function(&mut self, begin: usize) -> usize {
        let name = self.word(begin + 1).unwrap_or_default().to_owned();
        let (mut place, mut depth) = (begin + 2, 0);
        while place < self.tokens.len() {
            depth += i32::from(self.is(place, '(') || self.is(place, '['));
            depth -= i32::from(self.is(place, ')') || self.is(place, ']'));
            if depth == 0 && (self.is(place, '{') || self.is(place, ';')) {
                break;
            }
            place += 1;
        }
        if !self.is(place, '{') {
            return place + 1;
        }
        let of = self.scopes.iter().rev().find_map(|scope| match scope {
            Scope::Type(of) => Some(of.clone()),
            Scope::Function(_) => Some(None),
            Scope::Module | Scope::Other => None,
        });
        self.scopes.push(Scope::Function(self.program.functions.len()));
        self.program.functions.push(Function {
            module: self.module.clone(),
            of: of.flatten(),
            name,
            file: self.file.clone(),
            line: self.tokens[begin].1,
            calls: Vec::new(),
        });
        place + 1
    }

    /// What stands before a parenthesis in a function, if it calls something.
    fn read_call(&mut self, parenthesis: usize) {
        let caller = self.scopes.iter().rev().find_map(|scope| match scope {
            Scope::Function(place) => Some(*place),
            _ => None,
        });
        let (Some(caller), Some(mut place)) = (caller, parenthesis.checked_sub(1)) else { return };
        if self.is(place, '>') {
            // name::<T>(
            let mut depth = 0;
            loop {
                depth += i32::from(self.is(place, '>')) - i32::from(self.is(place, '<'));
                match place.checked_sub(1) {
                    Some(before) if depth > 0 => place = before,
                    _ => break,
                }
            }
            let Some(before) = place.checked_sub(3) else { return };
            if !(self.is(place - 1, ':') && self.is(place - 2, ':')) {
                return;
            }
            place = before;
        }
        let Some(name) = self.word(place).filter(|name| !KEYWORDS.contains(name)) else { return };
        let mut path = vec![name.to_owned()];
        while place >= 3 && self.is(place - 1, ':') && self.is(place - 2, ':') {
            let Some(before) = self.word(place - 3) else { return };
            path.insert(0, before.to_owned());
            place -= 3;
        }
        let before = place.checked_sub(1);
        if before.is_some_and(|before| self.word(before) == Some("fn")) {
            return;
        }
        let call = match (before.is_some_and(|before| self.is(before, '.')), path.as_slice()) {
            (true, [name]) => {
                let of_self = place >= 2 && self.word(place - 2) == Some("self");
                Call::Method {
                    of_self: of_self && !(place >= 3 && self.is(place - 3, '.')),
                    name: name.clone(),
                }
            }
            // A tuple, or a value of an enum.
            (false, [.., last]) if last.starts_with(char::is_uppercase) => return,
            _ => Call::Path(path),
        };
        self.program.functions[caller].calls.push(call);
    }

    /// `use a::{b, c as d};`: what the module's names stand for.
    fn read_use(&mut self, begin: usize) -> usize {
        let mut end = begin;
        while end < self.tokens.len() && !self.is(end, ';') {
            end += 1;
        }
        let mut found = Vec::new();
        self.read_tree(begin, end, &[], &mut found);
        for (path, name) in found {
            let path = expand(&self.module, &path);
            self.program.imports.insert((self.module.clone(), path.clone()));
            self.program.names.entry(self.module.clone()).or_default().insert(name, path);
        }
        end + 1
    }

    fn read_tree(
        &self,
        begin: usize,
        end: usize,
        before: &[String],
        found: &mut Vec<(Vec<String>, String)>,
    ) {
        let (mut path, mut place) = (before.to_vec(), begin);
        let mut name = None;
        while place < end {
            if self.is(place, '{') {
                let close = self.skip_block(place);
                self.read_tree(place + 1, close - 1, &path, found);
                path.clear();
                place = close;
            } else if self.is(place, ',') {
                self.end_branch(&mut path, &mut name, before, found);
                place += 1;
            } else if self.word(place) == Some("as") {
                name = self.word(place + 1).map(str::to_owned);
                place += 2;
            } else {
                path.extend(self.word(place).map(str::to_owned));
                place += 1;
            }
        }
        self.end_branch(&mut path, &mut name, before, found);
    }

    fn end_branch(
        &self,
        path: &mut Vec<String>,
        name: &mut Option<String>,
        before: &[String],
        found: &mut Vec<(Vec<String>, String)>,
    ) {
        let mut whole = std::mem::replace(path, before.to_vec());
        let renamed = name.take();
        if whole.len() <= before.len() {
            return;
        }
        if whole.last().is_some_and(|last| last == "self") {
            whole.pop();
        }
        if let Some(last) = whole.last().cloned() {
            found.push((whole, renamed.unwrap_or(last)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&[&str], &str)]) -> Program {
        let mut program = Program::default();
        for (module, text) in files {
            let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
            program.modules.insert(module.clone(), "f".to_owned());
            Reader {
                program: &mut program,
                tokens: tokens(text),
                module,
                file: "f".to_owned(),
                scopes: Vec::new(),
            }
            .read();
        }
        program
    }

    fn calls(program: &Program) -> Vec<String> {
        program.calls().keys().map(|(from, to)| format!("{from} > {to}")).collect()
    }

    #[test]
    fn only_words_and_signs_of_code_are_tokens() {
        let text = r##"a/*x/*y*/z*/ "b\"c" 'd' '\'' 'life r"e" r#"f"g"# b"h" br"i" 1_0.5 // j
k"##;
        let found: Vec<_> = tokens(text);
        let words: Vec<&str> = found.iter().filter_map(|(token, _)| token.word()).collect();
        assert_eq!(words, ["a", "k"]);
        assert_eq!(found.last().unwrap().1, 2);
    }

    #[test]
    fn calls_lead_to_the_one_function_that_they_can_mean() {
        let program = read(&[
            (
                &["a", "one"],
                "use crate::two::{helper as help, Thing}; use super::two;
                 fn main() { help(1); two::other::<u8>(); Thing::make().go(); local(); Some(3);
                     if x (y) {} unknown(); format!(\"{}\", local()); }
                 fn local() { fn inner() { deep() } inner(); }
                 fn deep() {}",
            ),
            (
                &["a", "two"],
                "pub fn helper(x: u8) -> [u8; 2] {} pub fn other<T>() where T: Fn() -> u8 {}
                 pub struct Thing; impl<T: Iterator<Item = u8>> Clone for Thing<T> {
                     fn make() -> Self { Self::hidden() } fn hidden() {}
                     fn go(&self) { self.again() } fn again(&self) {} fn twice(&self) {} }
                 trait Other { fn twice(&self); fn given(&self) { self.twice() } }
                 mod tests { fn not_seen() { helper() } }
                 #[cfg(test)] mod inner { fn seen() { super::helper() } }",
            ),
        ]);
        assert_eq!(
            calls(&program),
            [
                "a::one::inner > a::one::deep",
                "a::one::local > a::one::inner",
                "a::one::main > a::one::local",
                "a::one::main > a::two::Thing::go",
                "a::one::main > a::two::Thing::make",
                "a::one::main > a::two::helper",
                "a::one::main > a::two::other",
                "a::two::Thing::go > a::two::Thing::again",
                "a::two::Thing::make > a::two::Thing::hidden",
                "a::two::inner::seen > a::two::helper",
            ]
        );
        let two = ["a", "two"].map(str::to_owned).to_vec();
        let one = ["a", "one"].map(str::to_owned).to_vec();
        let imported = |path: &[String]| program.module_of(path) == Some(two.clone());
        assert!(program.imports.iter().any(|(from, to)| *from == one && imported(to)));
    }

    #[test]
    fn this_repository_is_a_graph_without_loose_ends() {
        let mut text = Vec::new();
        let counts = write(&mut text).unwrap();
        let lines: Vec<Value> = String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
        let keys: BTreeSet<&str> =
            of("node").iter().map(|it| it["key"].as_str().unwrap()).collect();
        assert_eq!(keys.len(), counts.nodes);
        for edge in of("edge") {
            for end in ["from", "to"] {
                assert!(keys.contains(edge[end].as_str().unwrap()), "{edge}");
            }
        }
        let has = |from: &str, to: &str, kind: &str| {
            of("edge").iter().any(|it| it["from"] == from && it["to"] == to && it["kind"] == kind)
        };
        assert!(has("crate:agentry_api", "crate:agentry_engine", "imports"));
        assert!(has("crate:xtask", "mod:xtask::code_graph", "contains"));
        assert!(has("mod:xtask::code_graph", "mod:xtask::workspace", "imports"));
        assert!(has("mod:xtask::code_graph", "fn:xtask::code_graph::expand", "contains"));
        let absolute = "fn:xtask::code_graph::Program::absolute";
        assert!(has("fn:xtask::code_graph::Program::called", absolute, "calls"));
        assert!(has(absolute, "fn:xtask::code_graph::expand", "calls"));
        assert!(counts.edges[2] > 1_000, "{counts:?}");
    }
}
