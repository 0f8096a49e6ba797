//! Values to PostgreSQL's binary format and back. The server says which type a
//! parameter has, since the shared SQL has no casts; a value that does not fit
//! it is our bug and comes back as an error before anything is sent.

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

use crate::value::Value;
use crate::{Result, StoreError};

type Encoded = std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>>;

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Encoded {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(int) => match *ty {
                Type::INT8 => int.to_sql(ty, out),
                Type::INT4 => i32::try_from(*int)?.to_sql(ty, out),
                Type::INT2 => i16::try_from(*int)?.to_sql(ty, out),
                _ => Err(misfit("a whole number", ty)),
            },
            Value::Real(real) => match *ty {
                Type::FLOAT8 => real.to_sql(ty, out),
                _ => Err(misfit("a number", ty)),
            },
            Value::Text(text) => text_to_sql(text, ty, out),
            Value::Static(text) => text_to_sql(text, ty, out),
            Value::Bytes(bytes) => bytes_to_sql(bytes, ty, out),
            Value::Id(id) => bytes_to_sql(id, ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // What fits depends on the value.
        true
    }

    to_sql_checked!();
}

fn text_to_sql(text: &str, ty: &Type, out: &mut BytesMut) -> Encoded {
    match *ty {
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            text.to_sql(ty, out)
        }
        _ => Err(misfit("a text", ty)),
    }
}

fn bytes_to_sql(bytes: &[u8], ty: &Type, out: &mut BytesMut) -> Encoded {
    if *ty == Type::BYTEA { bytes.to_sql(ty, out) } else { Err(misfit("bytes", ty)) }
}

fn misfit(what: &str, ty: &Type) -> Box<dyn std::error::Error + Sync + Send> {
    format!("{what} for a parameter of type {ty}").into()
}

/// The values of a row, for a statement whose rows were asked for.
pub(super) fn owned(row: &Row) -> Result<Vec<Value>> {
    (0..row.len())
        .map(|column| {
            Ok(match *row.columns()[column].type_() {
                Type::INT8 => get(row, column)?.map_or(Value::Null, Value::Int),
                Type::INT4 => {
                    get::<i32>(row, column)?.map_or(Value::Null, |int| Value::Int(i64::from(int)))
                }
                Type::FLOAT8 => get(row, column)?.map_or(Value::Null, Value::Real),
                Type::TEXT => get(row, column)?.map_or(Value::Null, Value::Text),
                Type::BYTEA => get(row, column)?.map_or(Value::Null, Value::Bytes),
                ref other => {
                    return Err(StoreError::Bug(format!("a returned column of type {other}")));
                }
            })
        })
        .collect()
}

fn get<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Result<Option<T>> {
    row.try_get(column).map_err(StoreError::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_the_type_or_is_refused() {
        let fits = |value: &Value, ty: &Type| {
            let mut out = BytesMut::new();
            value.to_sql(ty, &mut out).map(|_| out.to_vec()).ok()
        };
        assert_eq!(fits(&Value::Int(258), &Type::INT8), Some(vec![0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(fits(&Value::Int(258), &Type::INT4), Some(vec![0, 0, 1, 2]));
        assert_eq!(fits(&Value::Int(258), &Type::INT2), Some(vec![1, 2]));
        assert_eq!(fits(&Value::Int(1 << 40), &Type::INT4), None);
        assert_eq!(fits(&Value::Int(1), &Type::TEXT), None);
        let real = 1.5_f64;
        assert_eq!(fits(&Value::Real(real), &Type::FLOAT8), Some(real.to_be_bytes().to_vec()));
        assert_eq!(fits(&Value::Real(real), &Type::INT8), None);
        assert_eq!(fits(&Value::Static("é"), &Type::TEXT), Some("é".as_bytes().to_vec()));
        assert_eq!(fits(&Value::Text("x".to_owned()), &Type::BYTEA), None);
        assert_eq!(fits(&Value::Id([7; 16]), &Type::BYTEA), Some(vec![7; 16]));
        assert_eq!(fits(&Value::Bytes(vec![1]), &Type::INT8), None);
        assert_eq!(fits(&Value::Null, &Type::INT8), Some(Vec::new()));
    }
}
