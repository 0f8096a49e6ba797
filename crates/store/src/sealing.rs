//! What tells the key that secrets of this store are sealed with from others.

use agentry_domain::OrgId;

use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::Write;
use crate::{Result, Store};

statements! {
    // When nothing is sealed any more, any key will do.
    // Every key is at least the empty one: a look for the first row, and not a scan.
    SEALING_GET = sqlite "select mark from sealing where one = 1 \
        and (exists (select 1 from webhook_feed where org >= x'') \
        or exists (select 1 from mcp_state where org >= x'' and secrets is not null))"
        postgres "select mark from sealing where one = 1 \
        and (exists (select 1 from webhook_feed) \
        or exists (select 1 from mcp_state where org >= ''::bytea and secrets is not null))";
    SEALING_SET = sqlite "insert into sealing (one, mark) values (1, $1) on conflict (one) \
        do update set mark = excluded.mark \
        where not exists (select 1 from webhook_feed where org >= x'') \
        and not exists (select 1 from mcp_state where org >= x'' and secrets is not null)"
        postgres "insert into sealing (one, mark) values (1, $1) on conflict (one) \
        do update set mark = excluded.mark where not exists (select 1 from webhook_feed) \
        and not exists (select 1 from mcp_state where org >= ''::bytea and secrets is not null)";
    SEALING_SEEN = "select mark from sealing where one = 1";
}

/// No organisation: there is one key for the installation.
const SYSTEM: OrgId = OrgId::from_bytes([0; 16]);

impl Store {
    /// The mark of the key that secrets are sealed with; none as long as nothing is.
    pub async fn sealing_mark(&self) -> Result<Option<Vec<u8>>> {
        self.point(&SEALING_GET, values![], read_mark).await
    }

    /// Stores the mark, unless something is sealed with another key; the one that
    /// there is then.
    pub async fn sealing_mark_set(&self, mark: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut write = Write::new(SYSTEM);
        write.add(&SEALING_SET, values![mark.to_vec()]);
        self.write(write).await?;
        self.point(&SEALING_SEEN, values![], read_mark).await
    }
}

fn read_mark(row: &mut Columns<'_>) -> Result<Vec<u8>> {
    row.bytes()
}
