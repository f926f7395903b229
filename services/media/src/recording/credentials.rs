//! Who gives the credentials for a bucket: the configuration, or the platform, as it tells a pod or a task in the variables
//! of [`VARIABLES`]. Nothing else is read from the environment.

use std::fmt;

use object_store::Error;

use crate::config::StoreConfig;

const ROLE_ARN: &str = "AWS_ROLE_ARN";
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const SESSION: &str = "AWS_ROLE_SESSION_NAME";
const STS: &str = "AWS_ENDPOINT_URL_STS";
const TASK_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const AGENT_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const AGENT_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// The variables that are looked at.
pub(super) const VARIABLES: [&str; 7] =
    [ROLE_ARN, TOKEN_FILE, SESSION, STS, TASK_URI, AGENT_URI, AGENT_TOKEN_FILE];

/// By which way credentials are got, the first one that applies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Keys of the configuration.
    Keys,
    /// A role that STS gives for the token of a service account (EKS: IRSA).
    WebIdentity { role: String, token_file: String, session: Option<String>, sts: Option<String> },
    /// The role of an ECS task. Its address is as good as the credentials: it is never shown.
    Task { uri: String },
    /// An agent on the machine, shown the token of a service account (EKS Pod Identity).
    Agent { uri: String, token_file: String },
    /// The machine's metadata service (EC2); with the variable that another way would have needed.
    Instance { lacking: Option<(&'static str, &'static str)> },
}

impl Way {
    /// The way of a bucket; `None`: it is a folder. A key in the configuration wins.
    pub(super) fn of(config: &StoreConfig, env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let StoreConfig::S3 { access_key_id, secret_access_key, .. } = config else { return None };
        if access_key_id.is_some() || secret_access_key.is_some() {
            return Some(Self::Keys);
        }
        let [role, token_file, session, sts, task, agent, agent_token] =
            VARIABLES.map(|name| env(name).filter(|value| !value.is_empty()));
        let lacking = match (&role, &token_file, &agent, &agent_token) {
            (Some(_), None, ..) => Some((ROLE_ARN, TOKEN_FILE)),
            (None, Some(_), ..) => Some((TOKEN_FILE, ROLE_ARN)),
            (.., Some(_), None) => Some((AGENT_URI, AGENT_TOKEN_FILE)),
            (.., None, Some(_)) => Some((AGENT_TOKEN_FILE, AGENT_URI)),
            _ => None,
        };
        Some(match (role, token_file, task, agent, agent_token) {
            (Some(role), Some(token_file), ..) => Self::WebIdentity { role, token_file, session, sts },
            (_, _, Some(uri), ..) => Self::Task { uri },
            (.., Some(uri), Some(token_file)) => Self::Agent { uri, token_file },
            _ => Self::Instance { lacking },
        })
    }

    /// What to do when there are none.
    fn remedy(&self) -> &'static str {
        match self {
            Self::Keys => "give access_key_id and secret_access_key",
            Self::WebIdentity { .. } => {
                "let the role's trust policy name the cluster's OIDC provider and this service account, and let STS be \
                 reached (TCP 443; AWS_ENDPOINT_URL_STS for another address)"
            }
            Self::Task { .. } => "give the task a role, and let 169.254.170.2 be reached (TCP 80)",
            Self::Agent { .. } => {
                "associate the service account with a role that trusts pods.eks.amazonaws.com (sts:AssumeRole, \
                 sts:TagSession), run the Pod Identity agent on this machine, and let it be reached (169.254.170.23, TCP 80)"
            }
            Self::Instance { .. } => {
                "give access_key_id and secret_access_key, or a role to the pod's service account or to the machine \
                 (whose metadata service answers containers with a hop limit of 2)"
            }
        }
    }

    /// An error without the address that is as good as the credentials.
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "only a bucket has credentials"))]
    fn hidden(&self, error: Error) -> Error {
        match self {
            Self::Task { uri } => {
                let told = error.to_string().replace(uri.as_str(), "/…");
                Error::Generic { store: "S3", source: told.into() }
            }
            _ => error,
        }
    }

    /// What to do when the store refuses those that there are.
    pub(super) fn refused(&self) -> &'static str {
        match self {
            Self::Keys => {
                "check access_key_id and secret_access_key, and that they may put, get, list and delete"
            }
            _ => "check that the role may put, get, list and delete",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("the configuration's keys"),
            Self::WebIdentity { role, token_file, sts, .. } => {
                write!(f, "web identity: role {role}, token of {token_file}")?;
                sts.iter().try_for_each(|sts| write!(f, ", STS at {sts}"))
            }
            Self::Task { .. } => f.write_str("the ECS task's role"),
            Self::Agent { uri, token_file } => {
                let host = uri.split('/').nth(2).unwrap_or("?");
                write!(f, "the container's agent at {host}, token of {token_file}")
            }
            Self::Instance { lacking: None } => f.write_str("the machine's metadata service"),
            Self::Instance { lacking: Some((set, unset)) } => {
                write!(f, "the machine's metadata service ({set} is set without {unset})")
            }
        }
    }
}

/// Credentials could not be got.
#[derive(Debug, thiserror::Error)]
#[error("no credentials by {way}: {source}")]
struct Absent {
    way: Way,
    source: Error,
}

/// What to do about an error of a store, when it comes from credentials that could not be got.
pub fn credentials_remedy(error: &Error) -> Option<&'static str> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(absent) = error.downcast_ref::<Absent>() {
            return Some(absent.way.remedy());
        }
        next = error.source();
    }
    None
}

#[cfg(feature = "s3")]
mod provider {
    use std::sync::Arc;

    use async_trait::async_trait;
    use object_store::CredentialProvider;
    use object_store::aws::{
        AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential, AwsCredentialProvider,
    };

    use super::{Absent, Error, Way};

    /// Says by which way credentials could not be got.
    #[derive(Debug)]
    struct Named {
        way: Way,
        inner: AwsCredentialProvider,
    }

    #[async_trait]
    impl CredentialProvider for Named {
        type Credential = AwsCredential;

        async fn get_credential(&self) -> Result<Arc<AwsCredential>, Error> {
            let absent = |source| Absent { way: self.way.clone(), source: self.way.hidden(source) };
            let told = |source| Error::Generic { store: "S3", source: Box::new(absent(source)) };
            self.inner.get_credential().await.map_err(told)
        }
    }

    impl Way {
        /// The builder with credentials of this way; keys are there already.
        pub(in crate::recording) fn apply(&self, builder: AmazonS3Builder) -> Result<AmazonS3Builder, Error> {
            let asking = match self {
                Self::Keys => return Ok(builder),
                Self::WebIdentity { role, token_file, session, sts } => {
                    let set = [(Key::StsEndpoint, sts), (Key::RoleSessionName, session)];
                    let builder = builder.clone().with_config(Key::RoleArn, role);
                    let builder = builder.with_config(Key::WebIdentityTokenFile, token_file);
                    set.into_iter()
                        .filter_map(|(key, value)| Some((key, value.as_ref()?)))
                        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
                }
                Self::Task { uri } => builder.clone().with_config(Key::ContainerCredentialsRelativeUri, uri),
                Self::Agent { uri, token_file } => builder
                    .clone()
                    .with_config(Key::ContainerCredentialsFullUri, uri)
                    .with_config(Key::ContainerAuthorizationTokenFile, token_file),
                Self::Instance { .. } => builder.clone(),
            };
            // The providers of the library are its own: one is taken out of a store that is used for nothing else.
            let inner = asking.build()?.credentials().clone();
            Ok(builder.with_credentials(Arc::new(Named { way: self.clone(), inner })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(keys: &[&str]) -> StoreConfig {
        let mut value = serde_json::json!({ "kind": "s3", "bucket": "b" });
        keys.iter().for_each(|key| value[key] = "x".into());
        serde_json::from_value(value).unwrap()
    }

    fn way(set: &[&str]) -> Way {
        let env = |name: &str| set.contains(&name).then(|| format!("http://host/{name}"));
        Way::of(&bucket(&[]), env).unwrap()
    }

    #[test]
    fn the_first_complete_way_is_taken_and_a_key_of_the_configuration_wins() {
        let all = |name: &str| Some(format!("http://host/{name}"));
        assert_eq!(Way::of(&bucket(&["access_key_id", "secret_access_key"]), all), Some(Way::Keys));
        assert_eq!(Way::of(&StoreConfig::Folder { path: "x".into() }, all), None);
        assert!(matches!(way(&VARIABLES), Way::WebIdentity { session: Some(_), sts: Some(_), .. }));
        assert!(matches!(way(&[ROLE_ARN, TASK_URI, AGENT_URI, AGENT_TOKEN_FILE]), Way::Task { .. }));
        assert!(matches!(way(&[SESSION, STS, AGENT_URI, AGENT_TOKEN_FILE]), Way::Agent { .. }));
        assert_eq!(way(&[SESSION, STS]), Way::Instance { lacking: None });
        assert_eq!(Way::of(&bucket(&[]), |_| Some(String::new())), Some(Way::Instance { lacking: None }));
    }

    #[test]
    fn half_a_way_is_named_and_an_address_that_is_a_secret_is_not_shown() {
        for (set, unset) in [
            (ROLE_ARN, TOKEN_FILE),
            (TOKEN_FILE, ROLE_ARN),
            (AGENT_URI, AGENT_TOKEN_FILE),
            (AGENT_TOKEN_FILE, AGENT_URI),
        ] {
            let text = way(&[set]).to_string();
            assert!(text.contains(&format!("{set} is set without {unset}")), "{text}");
        }
        let task = Way::Task { uri: "/v2/credentials/5f3a".into() };
        let refused = "GET http://169.254.170.2/v2/credentials/5f3a: refused";
        let error = Error::Generic { store: "S3", source: refused.into() };
        let told = task.hidden(error).to_string();
        assert!(told.contains("169.254.170.2/…: refused") && !told.contains("5f3a"), "{told}");
        assert_eq!(way(&[TASK_URI]).to_string(), "the ECS task's role");
        let agent = way(&[AGENT_URI, AGENT_TOKEN_FILE]).to_string();
        assert!(agent.contains("agent at host, token of") && !agent.contains(AGENT_URI), "{agent}");
    }
}
