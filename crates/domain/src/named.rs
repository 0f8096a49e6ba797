//! Enums whose values have stable texts: in JSON, in the store, in queries.

/// An enum whose values have stable texts.
pub trait Named: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];
    /// Texts that are read as a value and never written.
    const SPELLINGS: &'static [(&'static str, Self)];

    /// The stable text.
    fn text(self) -> &'static str;

    /// Reads a stable text or another spelling of one.
    fn of_text(text: &str) -> Option<Self> {
        let spelled = || Self::SPELLINGS.iter().find(|(spelling, _)| *spelling == text);
        let named = Self::ALL.iter().copied().find(|value| value.text() == text);
        named.or_else(|| spelled().map(|(_, value)| *value))
    }
}

/// Declares an enum with the stable text of each value, after `|` other
/// spellings that are read as the same.
///
/// ```
/// agentry_domain::named! {
///     /// How far something is.
///     #[derive(Default)]
///     pub enum Progress {
///         /// Not begun.
///         #[default]
///         Waiting = "waiting",
///         /// Begun.
///         Active = "active" | "in_progress",
///     }
/// }
/// assert_eq!(Progress::parse("in_progress"), Some(Progress::Active));
/// assert_eq!(Progress::Active.as_str(), "active");
/// ```
#[macro_export]
macro_rules! named {
    (
        $(#[$meta:meta])* $vis:vis enum $name:ident {
            $($(#[$of:meta])* $value:ident = $text:literal $(| $spelling:literal)*),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        $vis enum $name {
            $($(#[$of])* $value,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)+
                }
            }

            /// Reads the stable text or another spelling of it.
            pub fn parse(text: &str) -> Option<Self> {
                <Self as $crate::Named>::of_text(text)
            }
        }

        impl $crate::Named for $name {
            const ALL: &'static [Self] = Self::ALL;
            const SPELLINGS: &'static [(&'static str, Self)] =
                &[$($(($spelling, Self::$value),)*)+];

            fn text(self) -> &'static str {
                self.as_str()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                Self::parse(&text).ok_or_else(|| {
                    serde::de::Error::custom(format!("{text} is no {}", stringify!($name)))
                })
            }
        }
    };
}
