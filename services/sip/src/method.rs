//! Request methods.

use std::fmt;

use crate::text::is_token;

macro_rules! methods {
    ($($variant:ident = $name:literal, $source:literal;)*) => {
        /// A request method. Names are case-sensitive (RFC 3261 section 7.1); what is not listed is `Other`.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Method {
            $(#[doc = $source] $variant,)*
            /// A method that this crate has no name for; always a token. Made by [`Method::parse`] only.
            Other(OtherMethod),
        }

        impl Method {
            /// The methods that have a name here.
            pub const KNOWN: &'static [Method] = &[$(Method::$variant),*];

            /// As written in a request line.
            pub fn as_str(&self) -> &str {
                match self { $(Self::$variant => $name,)* Self::Other(other) => &other.0 }
            }

            /// Reads a method; `None` when it is not a token.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => is_token(name.as_bytes()).then(|| Self::Other(OtherMethod(name.into()))),
                }
            }
        }
    };
}

methods! {
    Invite = "INVITE", "RFC 3261.";
    Ack = "ACK", "RFC 3261.";
    Bye = "BYE", "RFC 3261.";
    Cancel = "CANCEL", "RFC 3261.";
    Options = "OPTIONS", "RFC 3261.";
    Register = "REGISTER", "RFC 3261.";
    Prack = "PRACK", "RFC 3262.";
    Update = "UPDATE", "RFC 3311.";
    Info = "INFO", "RFC 6086.";
    Subscribe = "SUBSCRIBE", "RFC 6665.";
    Notify = "NOTIFY", "RFC 6665.";
    Refer = "REFER", "RFC 3515.";
    Message = "MESSAGE", "RFC 3428.";
    Publish = "PUBLISH", "RFC 3903.";
}

/// The name of an unlisted method. Private inside, so that it is a token wherever it goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherMethod(Box<str>);

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_cases_differ() {
        for method in Method::KNOWN {
            assert_eq!(Method::parse(method.as_str()).as_ref(), Some(method));
        }
        assert_ne!(Method::parse("invite"), Some(Method::Invite));
        assert_eq!(Method::parse("RE%47IST%45R").unwrap().as_str(), "RE%47IST%45R");
        assert_eq!(Method::parse("IN VITE"), None);
        assert_eq!(Method::parse("A\r\nB"), None);
    }
}
