//! Which tenant a call belongs to: media nodes know calls only, an address needs both.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

/// Calls whose tenant is remembered: those that were told of last.
const REMEMBERED: usize = 200_000;

#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<(HashMap<String, String>, VecDeque<String>)>);

impl Tenants {
    pub(super) fn remember(&self, call: &str, tenant: &str) {
        if call.is_empty() {
            return;
        }
        let (known, order) = &mut *self.0.lock();
        if known.insert(call.to_owned(), tenant.to_owned()).is_none() {
            order.push_back(call.to_owned());
            if order.len() > REMEMBERED
                && let Some(oldest) = order.pop_front()
            {
                known.remove(&oldest);
            }
        }
    }

    pub(super) fn of(&self, call: &str) -> Option<String> {
        self.0.lock().0.get(call).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_a_list_of_sessions_names_no_call() {
        let tenants = Tenants::default();
        tenants.remember("", "x");
        for n in 0..=REMEMBERED {
            tenants.remember(&n.to_string(), "default");
        }
        assert_eq!((tenants.of("0"), tenants.of("")), (None, None));
        assert_eq!(tenants.of(&REMEMBERED.to_string()).as_deref(), Some("default"));
    }
}
