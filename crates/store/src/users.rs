//! Users in the store, and the texts that lead to them. An alias is a row of its
//! own, so that the database sees to it that it leads to one user only.

use std::sync::LazyLock;

use agentry_domain::users::{Alias, UserBody, email_alias, phone_alias};
use agentry_domain::{Code, Document, Error, OrgId, UserId};

use crate::resources::{Column, Statements, Table, document};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::Write;
use crate::{Result, Store};

/// The texts that one look-up compares with at most.
const CANDIDATES_MAX: usize = 4;

statements! {
    USER_ALIAS_INSERT = "insert into user_alias (org, alias, holder) values ($1, $2, $3)";
    USER_ALIAS_DELETE = "delete from user_alias where org = $1 and alias = $2 and holder = $3";
    USER_ALIAS_HOLDER = "select holder from user_alias where org = $1 and alias = $2";
    USER_BY_ALIAS = "select u.id, u.version, u.created_at, u.updated_at, u.shape, u.document, \
        a.alias from user_alias a join app_user u on u.org = a.org and u.id = a.holder \
        where a.org = $1 and a.alias in ($2, $3, $4, $5)";
}

/// Which users a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserFilter {
    /// With this mail address, in whatever case.
    pub email: Option<String>,
    /// With this phone number, however it is separated.
    pub phone_number: Option<String>,
    /// Exactly this name.
    pub name: Option<String>,
}

impl Table for UserBody {
    const TABLE: &'static str = "app_user";
    const COLUMNS: &'static [Column] =
        &[Column::index("email"), Column::index("phone_number"), Column::index("name")];
    const COUNTER: &'static str = "users";
    type Filter = UserFilter;

    fn columns(&self) -> Vec<Value> {
        values![
            self.email.as_deref().map(email_alias),
            self.phone_number.as_deref().map(phone_alias),
            self.name.as_ref(),
        ]
    }

    fn asked(filter: &UserFilter) -> Vec<Value> {
        values![
            filter.email.as_deref().map(email_alias),
            filter.phone_number.as_deref().map(phone_alias),
            filter.name.as_ref(),
        ]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<UserBody>);
        &STATEMENTS
    }
}

fn taken(alias: &Alias) -> impl Fn() -> Error + Send + Sync + 'static {
    let Alias { text, field } = alias.clone();
    move || Error::new(Code::AlreadyExists, format!("{field}: {text} leads to another user"))
}

impl Write {
    /// Guard: these texts lead to nobody. From now on they lead to this user.
    pub fn user_alias_insert(&mut self, id: UserId, aliases: &[Alias]) {
        for alias in aliases {
            self.add(&USER_ALIAS_INSERT, values![self.org, &alias.text, id])
                .taken_means(taken(alias));
        }
    }

    /// These texts no longer lead to this user.
    pub fn user_alias_delete(&mut self, id: UserId, aliases: &[Alias]) {
        for alias in aliases {
            self.add(&USER_ALIAS_DELETE, values![self.org, &alias.text, id]);
        }
    }
}

impl Store {
    /// The user to whom exactly this text leads.
    pub async fn user_alias_holder(&self, org: OrgId, alias: &str) -> Result<Option<UserId>> {
        let holder = |row: &mut Columns<'_>| Ok(UserId::from_bytes(row.id()?));
        self.point(&USER_ALIAS_HOLDER, values![org, alias.to_owned()], holder).await
    }

    /// The users to whom any of these texts leads, with the text, in the order of the
    /// texts; of more than four texts the first.
    pub async fn user_by_alias(
        &self,
        org: OrgId,
        texts: &[String],
    ) -> Result<Vec<(String, Document<UserBody>)>> {
        let mut bound = values![org];
        let texts = &texts[..texts.len().min(CANDIDATES_MAX)];
        bound.extend((0..CANDIDATES_MAX).map(|nth| Value::from(texts.get(nth))));
        let mut found = self
            .rows(&USER_BY_ALIAS, bound, |row| {
                let document = document::<UserBody>(row)?;
                Ok((row.text()?, document))
            })
            .await?;
        found.sort_by_key(|(alias, _)| texts.iter().position(|text| text == alias));
        Ok(found)
    }
}
