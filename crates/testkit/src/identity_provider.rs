//! An identity provider: it has signing keys, shows their public halves as a JWK
//! set over HTTP, and signs whatever claims a test wants, also wrongly.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentry_domain::background::Tasks;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    /// RSA, PKCS 1, SHA-256.
    Rs256,
    /// ECDSA, P-256, SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Alg {
    /// The name in a token's head.
    pub fn name(self) -> &'static str {
        match self {
            Alg::Rs256 => "RS256",
            Alg::Es256 => "ES256",
            Alg::EdDsa => "EdDSA",
        }
    }
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key that signs tokens.
pub struct SigningKey {
    /// Its id.
    pub id: String,
    /// What it signs with.
    pub alg: Alg,
    pair: Pair,
}

fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    /// A fresh key.
    pub fn new(id: &str, alg: Alg) -> Self {
        let pair = match alg {
            Alg::Rs256 => Pair::Rsa(Box::new(
                RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key is made"),
            )),
            Alg::Es256 => Pair::Ecdsa(Box::new(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                    .expect("an ECDSA key is made"),
            )),
            Alg::EdDsa => {
                Pair::Ed25519(Box::new(Ed25519KeyPair::generate().expect("an Ed25519 key is made")))
            }
        };
        Self { id: id.to_owned(), alg, pair }
    }

    /// Its public half, as a JWK.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": text(&public.n), "e": text(&public.e)})
            }
            Pair::Ecdsa(pair) => {
                // 4, then the two coordinates (SEC 1, section 2.3.3).
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256",
                    "x": text(&point[1..33]), "y": text(&point[33..65])})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["alg"] = json!(self.alg.name());
        jwk["use"] = json!("sig");
        jwk
    }

    /// Its public half in PEM, which everybody may know.
    pub fn public_pem(&self) -> String {
        let der = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der().expect("a public key").as_ref().to_vec(),
            Pair::Ecdsa(pair) => {
                pair.public_key().as_der().expect("a public key").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => {
                pair.public_key().as_der().expect("a public key").as_ref().to_vec()
            }
        };
        let lines: Vec<String> = BASE64_STANDARD
            .encode(der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("RSA signs");
                signature
            }
            Pair::Ecdsa(pair) => {
                pair.sign(&random, message).expect("ECDSA signs").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.alg.name(), "typ": "JWT", "kid": self.id}), claims)
    }

    /// A token with this head, whatever it says, signed with this key.
    pub fn token_with(&self, head: &Value, claims: &Value) -> String {
        let message = unsigned(head, claims);
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", text(&signature))
    }
}

/// A token's head and claims, without its signature.
pub fn unsigned(head: &Value, claims: &Value) -> String {
    format!("{}.{}", text(head.to_string().as_bytes()), text(claims.to_string().as_bytes()))
}

/// A token that is signed with a secret.
pub fn token_of_secret(head: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = unsigned(head, claims);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", text(tag.as_ref()))
}

#[derive(Default)]
struct Shown {
    set: Mutex<Value>,
    fetches: AtomicU64,
    is_down: AtomicBool,
}

/// The provider's server. It stops when dropped.
pub struct IdentityProvider {
    address: SocketAddr,
    shown: Arc<Shown>,
    tasks: Tasks,
}

impl IdentityProvider {
    /// Starts one that shows these keys.
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let shown = Arc::new(Shown::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/jwks.json", get(set)).with_state(Arc::clone(&shown));
        let tasks = Tasks::default();
        let stopping = tasks.stopping().clone();
        tasks.spawn(async move {
            let serving = axum::serve(listener, router);
            let _ = stopping.run_until_cancelled(serving.into_future()).await;
        });
        let provider = Self { address, shown, tasks };
        provider.show(keys);
        provider
    }

    /// Where its keys are.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Shows these keys from now on, and no others.
    pub fn show(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.show_set(json!({"keys": keys}));
    }

    /// Shows this from now on.
    pub fn show_set(&self, set: Value) {
        *self.shown.set.lock() = set;
    }

    /// Answers with failures from now on, or with its keys again.
    pub fn down(&self, is_down: bool) {
        self.shown.is_down.store(is_down, Ordering::Relaxed);
    }

    /// How often its keys were asked for.
    pub fn fetches(&self) -> u64 {
        self.shown.fetches.load(Ordering::Relaxed)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

async fn set(State(shown): State<Arc<Shown>>) -> Response {
    shown.fetches.fetch_add(1, Ordering::Relaxed);
    if shown.is_down.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    axum::Json(shown.set.lock().clone()).into_response()
}
