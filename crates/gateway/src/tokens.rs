//! Tokens of an identity provider: JSON Web Tokens (RFC 7519), signed with RS256,
//! ES256 or EdDSA by a key of the provider's JWK set (RFC 7517).
//!
//! What a token says of how to check it counts for nothing: the algorithm is the
//! key's, the key is one of the set, found by its id, and a token that brings or
//! names a key of its own is refused (RFC 8725, sections 3.1 and 3.10). The set is
//! fetched again now and then, and at most once a minute because of a key that is
//! not in it; when that fails the last one stays.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::ports::{Authenticate, Clock, SystemClock};
use agentry_domain::tokens::Claims;
use agentry_domain::{Caller, Code, Error, OrgId, Result, Role, Timestamp};
use agentry_outbound::{Ask, Client, Url};
use http::{HeaderMap, Method};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::RwLock;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How far the provider's clock may be from ours.
const SKEW: Duration = Duration::from_secs(60);
/// How long fetching the set may take.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a set at most.
const SET_BYTES_MAX: usize = 1_024 * 1_024;
/// Keys of a set that are taken at most.
const SET_KEYS_MAX: usize = 100;
/// How soon the set is fetched again because of a key that is not in it.
const UNKNOWN_FETCHED_EVERY: Duration = Duration::from_secs(60);
/// How soon a file is read again because of a key that is not in it, and a set is
/// asked for again while there is none.
const RETRIED_EVERY: Duration = Duration::from_secs(1);
/// Tokens whose check is remembered at once.
const REMEMBERED_MAX: u64 = 10_000;
/// How long a check is remembered at most: as long as what it found of the
/// organisation may be old.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// Bytes of a token at most.
const TOKEN_BYTES_MAX: usize = 16 * 1_024;
/// Characters of an issuer and of a subject at most.
const NAME_CHARS_MAX: usize = 255;
/// What is signed with. Of a shared secret everybody who checks can sign.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Roles, the strongest first.
const STRONGEST_FIRST: [Role; 5] =
    [Role::Owner, Role::Admin, Role::Member, Role::Service, Role::Viewer];

/// Where the provider's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file, which may be replaced.
    File(PathBuf),
    /// At a URL.
    Url(String),
}

/// Whose tokens are taken, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOptions {
    /// Where the keys are.
    pub keys: KeySource,
    /// What `iss` must be.
    pub issuer: String,
    /// Of what `aud` must have one.
    pub audiences: Vec<String>,
    /// The claim that has the organisation's id; empty when every token is for the
    /// installation's own.
    pub org_claim: String,
    /// The claim that says whom it is about.
    pub user_claim: String,
    /// The claim that has the role, or a list with it.
    pub role_claim: String,
    /// The role of those without one; none refuses them.
    pub role_default: Option<Role>,
    /// Whether tokens may make owners and admins.
    pub may_administer: bool,
    /// How often the set is fetched.
    pub refresh: Duration,
}

/// A key of the set.
struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
}

/// The provider's keys by their id.
struct KeySet {
    keys: HashMap<String, Key>,
    /// Changes whenever the set does.
    generation: u64,
    hash: blake3::Hash,
}

impl KeySet {
    fn find(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            Some(id) => self.keys.get(id),
            // Without an id it can be one only.
            None if self.keys.len() == 1 => self.keys.values().next(),
            None => None,
        }
    }
}

/// What was found of a token.
#[derive(Clone)]
struct Checked {
    caller: Caller,
    generation: u64,
    until: Timestamp,
}

/// When the set was last asked for, and why.
#[derive(Default)]
struct Fetches {
    any: Option<Instant>,
    for_unknown: Option<Instant>,
}

/// Checks tokens. A cheap handle; clones share everything.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    options: TokenOptions,
    client: Client,
    keys: RwLock<Option<Arc<KeySet>>>,
    /// Held while the set is being fetched: who needs it, too, waits for that.
    fetches: Mutex<Fetches>,
    remembered: moka::sync::Cache<Box<str>, Checked, ahash::RandomState>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    remembered: AtomicU64,
    checked: AtomicU64,
    refused: AtomicU64,
    fetched: AtomicU64,
    fetches_failed: AtomicU64,
}

/// What was done so far, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenActivity {
    /// Tokens that were checked a moment ago.
    pub remembered: u64,
    /// Tokens that were checked.
    pub checked: u64,
    /// Tokens that were refused.
    pub refused: u64,
    /// Sets that were fetched.
    pub fetched: u64,
    /// Sets that could not be fetched, or read.
    pub fetches_failed: u64,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("options", &self.0.options).finish_non_exhaustive()
    }
}

fn refused(detail: &'static str) -> Error {
    Error::new(Code::Unauthenticated, detail)
}

/// Whether a credential has the form of a token; keys have not.
pub fn is_token(credential: &str) -> bool {
    credential.len() <= TOKEN_BYTES_MAX
        && credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Tokens {
    /// Checks the tokens of one provider. [`Tokens::keep`] fetches its keys.
    pub fn new(options: TokenOptions, client: Client) -> Self {
        let remembered = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED_MAX)
            .time_to_live(REMEMBERED_FOR)
            .build_with_hasher(ahash::RandomState::new());
        Self(Arc::new(Inner {
            options,
            client,
            keys: RwLock::new(None),
            fetches: Mutex::default(),
            remembered,
            counts: Counts::default(),
        }))
    }

    /// Fetches the keys, and again now and then, until the tasks stop.
    pub fn keep(&self, tasks: &Tasks) {
        let (tokens, stopping) = (self.clone(), tasks.stopping().clone());
        tasks.spawn(async move {
            let keeping = async {
                loop {
                    tokens.fetch(&mut *tokens.0.fetches.lock().await).await;
                    let pause = match *tokens.0.keys.read() {
                        Some(_) => tokens.0.options.refresh,
                        None => RETRIED_EVERY,
                    };
                    tokio::time::sleep(pause).await;
                }
            };
            stopping.run_until_cancelled(keeping).await;
        });
    }

    /// What was done so far.
    pub fn activity(&self) -> TokenActivity {
        let counts = &self.0.counts;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TokenActivity {
            remembered: load(&counts.remembered),
            checked: load(&counts.checked),
            refused: load(&counts.refused),
            fetched: load(&counts.fetched),
            fetches_failed: load(&counts.fetches_failed),
        }
    }

    /// The caller whom a token names; `unauthenticated` for one that is not good,
    /// `token_keys_unavailable` while the provider's keys are not there.
    pub async fn authenticate(&self, token: &str, port: &dyn Authenticate) -> Result<Caller> {
        let counts = &self.0.counts;
        if let Some(caller) = self.remembered(token) {
            counts.remembered.fetch_add(1, Ordering::Relaxed);
            return Ok(caller);
        }
        let checked = self.check(token, port).await;
        let count = if checked.is_ok() { &counts.checked } else { &counts.refused };
        count.fetch_add(1, Ordering::Relaxed);
        checked
    }

    fn remembered(&self, token: &str) -> Option<Caller> {
        let checked = self.0.remembered.get(token)?;
        let generation = self.0.keys.read().as_ref()?.generation;
        // A key that went takes its tokens along.
        let is_good = checked.generation == generation && SystemClock.now() < checked.until;
        is_good.then_some(checked.caller)
    }

    async fn check(&self, token: &str, port: &dyn Authenticate) -> Result<Caller> {
        let header = decode_header(token).map_err(|error| {
            refused("the token cannot be read, or is signed in a way that is not taken")
                .caused_by(error)
        })?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("the token is signed in a way that is not taken"));
        }
        if header.jku.is_some()
            || header.jwk.is_some()
            || header.x5u.is_some()
            || header.x5c.is_some()
        {
            return Err(refused("the token brings or names its own key"));
        }
        let set = self.set_with(header.kid.as_deref()).await?;
        let key = set
            .find(header.kid.as_deref())
            .ok_or_else(|| refused("the token is signed with a key that is not known"))?;
        if key.algorithm != header.alg {
            return Err(refused("the token is signed in another way than its key is for"));
        }
        let claims = decode::<Map<String, Value>>(token, &key.key, &key.validation);
        let claims = claims.map_err(|error| why(&error).caused_by(error))?.claims;
        let claims = self.claims(&claims)?;
        let caller = port.accept_token(&claims).await?;
        let checked = Checked { caller, generation: set.generation, until: claims.expires_at };
        self.0.remembered.insert(token.into(), checked);
        Ok(caller)
    }

    /// What the claims mean here.
    fn claims(&self, claims: &Map<String, Value>) -> Result<Claims> {
        let options = &self.0.options;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let subject = text(&options.user_claim)
            .filter(|subject| (1..=NAME_CHARS_MAX).contains(&subject.chars().count()))
            .ok_or_else(|| refused("the token does not say whom it is about"))?;
        let org = match options.org_claim.as_str() {
            "" => INSTALLATION_ORG,
            name => text(name)
                .and_then(|id| id.parse::<OrgId>().ok())
                .ok_or_else(|| refused("the token names no organisation"))?,
        };
        let role = match claims.get(&options.role_claim) {
            Some(Value::String(role)) => Role::parse(role),
            // The strongest of several.
            Some(Value::Array(roles)) => {
                let of_list = |role: &Role| roles.iter().any(|one| one == role.as_str());
                STRONGEST_FIRST.into_iter().find(of_list)
            }
            _ => options.role_default,
        };
        let role = role.ok_or_else(|| refused("the token has no role"))?;
        if matches!(role, Role::Owner | Role::Admin) && !options.may_administer {
            return Err(refused("tokens make neither owners nor admins here"));
        }
        // Checked already: a number, and not past.
        let expires_at = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0);
        let expires_at = Timestamp::from_micros((expires_at.min(MICROS_MAX) * 1e6) as i64);
        Ok(Claims {
            issuer: options.issuer.clone(),
            subject: subject.to_owned(),
            org,
            role,
            expires_at: expires_at.plus(SKEW),
        })
    }

    /// The set, fetched again when it does not have this key and that is due.
    async fn set_with(&self, id: Option<&str>) -> Result<Arc<KeySet>> {
        let known = || self.0.keys.read().clone();
        let before = known();
        if let Some(set) = before.as_ref().filter(|set| set.find(id).is_some()) {
            return Ok(Arc::clone(set));
        }
        {
            let mut fetches = self.0.fetches.lock().await;
            // Whoever held it may have fetched what is wanted here.
            let now = known();
            let is_there = now.as_ref().is_some_and(|set| set.find(id).is_some());
            let now = Instant::now();
            let rested = |at: Option<Instant>, every| at.is_none_or(|at| now >= at + every);
            let is_due = match (&before, &self.0.options.keys) {
                (None, _) => rested(fetches.any, RETRIED_EVERY),
                (Some(_), KeySource::File(_)) => rested(fetches.for_unknown, RETRIED_EVERY),
                (Some(_), KeySource::Url(_)) => rested(fetches.for_unknown, UNKNOWN_FETCHED_EVERY),
            };
            if !is_there && is_due {
                if before.is_some() {
                    fetches.for_unknown = Some(now);
                }
                self.fetch(&mut fetches).await;
            }
        }
        known().ok_or_else(|| {
            let detail = "the identity provider's keys are not there yet; try again";
            Error::new(Code::TokenKeysUnavailable, detail).retry_after(RETRIED_EVERY)
        })
    }

    /// Fetches the set; when that fails the last one stays.
    async fn fetch(&self, fetches: &mut Fetches) {
        let counts = &self.0.counts;
        let fetched = self.fetch_bytes().await;
        fetches.any = Some(Instant::now());
        let read = fetched.and_then(|bytes| self.read(&bytes));
        match read {
            Ok(()) => counts.fetched.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(error, "the identity provider's keys could not be fetched");
                counts.fetches_failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }

    async fn fetch_bytes(&self) -> std::result::Result<Vec<u8>, String> {
        match &self.0.options.keys {
            KeySource::File(path) => {
                tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))
            }
            KeySource::Url(url) => {
                let ask = Ask {
                    method: Method::GET,
                    url: Url::parse(url).map_err(|error| error.to_string())?,
                    headers: HeaderMap::new(),
                    deadline: Instant::now() + FETCH_WITHIN,
                };
                let reply = self.0.client.ask(ask).await.map_err(|error| error.to_string())?;
                if !reply.status().is_success() {
                    return Err(format!("{url} answers {}", reply.status()));
                }
                let bytes = reply.bytes().await.map_err(|error| error.to_string())?;
                Ok(bytes.to_vec())
            }
        }
    }

    /// Takes a set over, if it has a key that can be used.
    fn read(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        if bytes.len() > SET_BYTES_MAX {
            return Err(format!("the set is larger than {SET_BYTES_MAX} bytes"));
        }
        let hash = blake3::hash(bytes);
        if self.0.keys.read().as_ref().is_some_and(|set| set.hash == hash) {
            return Ok(());
        }
        let set: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let listed = set["keys"].as_array().ok_or("it is no JWK set")?;
        // What is not understood may be meant for others (RFC 7517, section 5).
        let understood = |key: &Value| serde_json::from_value::<Jwk>(key.clone()).ok();
        let keys = listed.iter().take(SET_KEYS_MAX).filter_map(understood);
        let keys: HashMap<String, Key> = keys.filter_map(|key| self.key(&key)).collect();
        if keys.is_empty() {
            return Err("the set has no key for RS256, ES256 or EdDSA".to_owned());
        }
        let mut current = self.0.keys.write();
        let generation = current.as_ref().map_or(0, |set| set.generation) + 1;
        tracing::info!(keys = keys.len(), "the identity provider's keys were taken over");
        *current = Some(Arc::new(KeySet { keys, generation, hash }));
        Ok(())
    }

    /// A key that signs in a way that is taken, with its id.
    fn key(&self, jwk: &Jwk) -> Option<(String, Key)> {
        if jwk.common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature) {
            return None;
        }
        let (algorithm, said) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(it) if it.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        if jwk.common.key_algorithm.is_some_and(|it| it != said) {
            return None;
        }
        let key = DecodingKey::try_from(jwk).ok()?;
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.0.options.issuer]);
        validation.set_audience(&self.0.options.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = SKEW.as_secs();
        let id = jwk.common.key_id.clone().unwrap_or_default();
        Some((id, Key { algorithm, key, validation }))
    }
}

/// The end of time, for a token that has no sensible one, in seconds.
const MICROS_MAX: f64 = 9e12;

fn why(error: &jsonwebtoken::errors::Error) -> Error {
    use jsonwebtoken::errors::ErrorKind;
    refused(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not good yet",
        ErrorKind::InvalidIssuer => "the token is from another issuer",
        ErrorKind::InvalidAudience => "the token is for somebody else",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss or aud",
        ErrorKind::InvalidSignature => "the token's signature is wrong",
        _ => "the token cannot be read",
    })
}
