//! How many requests each organisation made on a day, added up over all processes.

use agentry_domain::OrgId;

use crate::sql::statements;
use crate::value::{self, Value, values};
use crate::write::Write;
use crate::{Result, Store, StoreError};

statements! {
    QUOTA_ADD = "insert into quota_use (org, day, n) values ($1, $2, $3) \
        on conflict (org, day) do update set n = quota_use.n + excluded.n returning n";
    QUOTA_FORGET = "delete from quota_use where org = $1 and day < $2";
    QUOTA_GET = "select n from quota_use where org = $1 and day = $2";
}

impl Store {
    /// Adds requests to an organisation's day, counted since 1970, and forgets the
    /// days before it; how many there are then.
    pub async fn quota_add(&self, org: OrgId, day: i64, n: u64) -> Result<u64> {
        let mut write = Write::new(org).bulk();
        write.add(&QUOTA_FORGET, values![org, day]);
        let added = write.next();
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        write.add(&QUOTA_ADD, values![org, day, n]).returning();
        match self.write(write).await?.rows(added) {
            [row] => match row.as_slice() {
                [Value::Int(n)] => Ok(n.unsigned_abs()),
                _ => Err(StoreError::unreadable("a count of requests")),
            },
            _ => Err(StoreError::unreadable("a count of requests")),
        }
    }

    /// How many requests an organisation made on a day, as far as that was stored.
    pub async fn quota_get(&self, org: OrgId, day: i64) -> Result<u64> {
        let n = self.point(&QUOTA_GET, values![org, day], value::int).await?;
        Ok(n.unwrap_or(0).unsigned_abs())
    }
}
