//! Who holds tokens: what the ids under which they act stand for.

use agentry_domain::tokens::Claims;
use agentry_domain::{KeyId, OrgId, Timestamp};

use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::Write;
use crate::{Result, Store};

statements! {
    HOLDER_SEEN = "insert into token_holder (org, id, issuer, subject, seen_at) \
        values ($1, $2, $3, $4, $5) on conflict (org, id) do update set \
        seen_at = excluded.seen_at";
    HOLDER_GET = "select issuer, subject from token_holder where org = $1 and id = $2";
}

impl Store {
    /// Notes that the holder of a token was here.
    pub async fn token_holder_seen(&self, claims: &Claims, at: Timestamp) -> Result<()> {
        let mut write = Write::new(claims.org).bulk();
        write.add(
            &HOLDER_SEEN,
            values![claims.org, claims.holder(), &claims.issuer, &claims.subject, at],
        );
        self.write(write).await.map(|_| ())
    }

    /// The issuer and the subject that an id stands for.
    pub async fn token_holder(&self, org: OrgId, id: KeyId) -> Result<Option<(String, String)>> {
        let both = |row: &mut Columns<'_>| Ok((row.text()?, row.text()?));
        self.point(&HOLDER_GET, values![org, id], both).await
    }
}
