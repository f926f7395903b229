use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::SaltString,
};
use tokio::{sync::Semaphore, time::timeout};

use crate::config::PasswordCost;

/// Waiting sign-ins; more are refused at once.
const QUEUE: usize = 64;
/// Longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// A password could not be hashed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the password cannot be hashed: {0}")]
pub struct HashError(String);

/// Argon2id hash in PHC form with a fresh salt, as accounts keep it. Takes the CPU for tens of milliseconds: call it on
/// a blocking thread.
pub fn hash_password(password: &str, cost: PasswordCost) -> Result<String, HashError> {
    let fail = |error: &dyn std::fmt::Display| HashError(error.to_string());
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(|e| fail(&e))?;
    let params = Params::new(cost.memory_kib, cost.passes, 1, None).map_err(|e| fail(&e))?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Ok(argon.hash_password(password.as_bytes(), &salt).map_err(|e| fail(&e))?.to_string())
}

/// Whether a password is the one of this hash (PHC form). Takes as long as it costs; one that cannot be read fits nothing.
pub fn password_fits(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// What a verification gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    Wrong,
    /// Too many at once.
    Busy,
}

/// Verifies passwords on blocking threads, a bounded number at once.
pub(super) struct Verifier {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Verified in place of the hash of an account that does not exist.
    stand_in: String,
}

impl Verifier {
    pub(super) fn new(at_once: usize, cost: PasswordCost) -> Result<Self, HashError> {
        let secret: [u8; 16] = rand::random();
        let stand_in = hash_password(&secret.map(|byte| format!("{byte:02x}")).concat(), cost)?;
        let places = Arc::new(Semaphore::new(at_once + QUEUE));
        Ok(Self { turns: Arc::new(Semaphore::new(at_once)), places, stand_in })
    }

    /// Verifies against `hash`, or against the stand-in (always wrong) without one.
    pub(super) async fn verify(&self, hash: Option<String>, password: String) -> Verdict {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Verdict::Busy };
        let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await else {
            return Verdict::Busy;
        };
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.stand_in.clone());
        // The permits go along: a client that hangs up does not make room for more work than allowed.
        let work = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            match PasswordHash::new(&hash) {
                Ok(hash) => Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(),
                Err(error) => {
                    tracing::error!(%error, "an account's password hash is not in PHC form: set it again");
                    false
                }
            }
        });
        match work.await {
            Ok(true) if known => Verdict::Right,
            _ => Verdict::Wrong,
        }
    }
}
