//! PostgreSQL that takes only encrypted connections, with a certificate of an
//! authority of its own.

use agentry_domain::OrgId;
use agentry_store::{Options, Store};
use agentry_testkit::TempDir;
use agentry_testkit::postgres::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::kept::ReadWhole as _;
use crate::make;

struct Authority {
    certificate: String,
    server: String,
    key: String,
}

/// An authority, and a server's certificate of it for this name.
fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let server = params.signed_by(&key, &issuer).unwrap();
    Authority { certificate: issuer.pem(), server: server.pem(), key: key.serialize_pem() }
}

async fn opens(url: String) -> Result<Store, String> {
    Store::open(&Options::postgres(url)).await.map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn an_encrypted_database_is_used_when_its_certificate_is_what_was_asked_for() {
    let directory = TempDir::new();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (ours, another) = (authority("127.0.0.1"), authority("127.0.0.1"));
    let (ours_file, another_file) =
        (file("ours.pem", &ours.certificate), file("another.pem", &another.certificate));
    let mut cluster = Cluster::start();
    cluster.encrypt(&ours.server, &ours.key);
    let url = cluster.url().to_owned();

    let encrypted = format!("{url}?sslmode=verify-full&sslrootcert={ours_file}");
    let store = opens(encrypted.clone()).await.unwrap();
    let (org, agent) = (OrgId::from_bytes([1; 16]), make::agent("kept"));
    store.write(make::agent_write(org, &agent)).await.unwrap();
    store.close().await;
    let store = opens(encrypted).await.unwrap();
    assert!(store.agent_get(org, agent.id).await.unwrap().is_some());
    store.close().await;

    let refused = [
        ("?sslmode=disable".to_owned(), "no encryption"),
        ("?sslmode=require".to_owned(), "UnknownIssuer"),
        (format!("?sslmode=require&sslrootcert={another_file}"), "InvalidCertificate"),
    ];
    for (query, why) in refused {
        let error = opens(format!("{url}{query}")).await.err().unwrap();
        assert!(error.contains(why), "{query}: {error}");
    }

    let elsewhere = authority("database.example");
    cluster.encrypt(&elsewhere.server, &elsewhere.key);
    let file = file("elsewhere.pem", &elsewhere.certificate);
    let error = opens(format!("{url}?sslmode=require&sslrootcert={file}")).await.err().unwrap();
    assert!(error.contains("NotValidForName"), "{error}");
}
