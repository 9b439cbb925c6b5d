//! SCRAM (RFC 5802, RFC 7677): how a client proves its password without sending it, and what a cluster keeps of one.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use wattle_api::stream::Mechanism;
use zeroize::Zeroizing;

/// Rounds of hashing beyond which a server only wants to keep us busy.
const MOST_ITERATIONS: u32 = 1_000_000;

/// A hash and what is made from it.
#[derive(Clone, Copy)]
struct Family {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
    bytes: usize,
}

impl Family {
    fn of(mechanism: Mechanism) -> Option<Self> {
        match mechanism {
            Mechanism::Plain => None,
            Mechanism::ScramSha256 => Some(Self {
                digest: &digest::SHA256,
                hmac: hmac::HMAC_SHA256,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
                bytes: 32,
            }),
            Mechanism::ScramSha512 => Some(Self {
                digest: &digest::SHA512,
                hmac: hmac::HMAC_SHA512,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
                bytes: 64,
            }),
        }
    }

    fn salted(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<Vec<u8>> {
        let mut salted = Zeroizing::new(vec![0; self.bytes]);
        pbkdf2::derive(
            self.pbkdf2,
            iterations,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        salted
    }

    fn sign(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac, key), text)
    }
}

/// The password as a cluster keeps it; none for a mechanism that is not SCRAM, or without iterations.
pub(crate) fn salted_password(
    mechanism: Mechanism,
    password: &str,
    salt: &[u8],
    iterations: u32,
) -> Option<Zeroizing<Vec<u8>>> {
    Some(Family::of(mechanism)?.salted(password, salt, NonZeroU32::new(iterations)?))
}

/// A client between its messages.
pub(crate) struct Client {
    family: Family,
    password: Zeroizing<String>,
    nonce: String,
    first_bare: String,
}

impl Client {
    /// Begins with a nonce that was never used; none for a mechanism that is not SCRAM.
    pub(crate) fn new(
        mechanism: Mechanism,
        username: &str,
        password: Zeroizing<String>,
        nonce: &str,
    ) -> Option<Self> {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        Some(Self {
            family: Family::of(mechanism)?,
            password,
            nonce: nonce.to_owned(),
            first_bare: format!("n={username},r={nonce}"),
        })
    }

    /// The first message.
    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The answer to the server's first message, and what its last one must be.
    pub(crate) fn answer(&self, server_first: &str) -> Result<(String, String), &'static str> {
        let field = |key: &str| {
            let mut fields = server_first.split(',');
            fields
                .find_map(|field| field.strip_prefix(key))
                .ok_or("a field is missing")
        };
        let nonce = field("r=")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the nonce is not ours");
        }
        let salt = STANDARD
            .decode(field("s=")?)
            .map_err(|_| "the salt is no base64")?;
        let iterations = field("i=")?
            .parse()
            .ok()
            .filter(|count| *count <= MOST_ITERATIONS);
        let iterations = iterations
            .and_then(NonZeroU32::new)
            .ok_or("the iterations make no sense")?;
        let last_bare = format!("c=biws,r={nonce}");
        let told = format!("{},{server_first},{last_bare}", self.first_bare);
        let salted = self.family.salted(&self.password, &salt, iterations);
        let client_key = self.family.sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.family.digest, client_key.as_ref());
        let signature = self.family.sign(stored_key.as_ref(), told.as_bytes());
        let proof = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = proof.map(|(key, mask)| key ^ mask).collect();
        let server_key = self.family.sign(&salted, b"Server Key");
        let server = self.family.sign(server_key.as_ref(), told.as_bytes());
        let last = format!("{last_bare},p={}", STANDARD.encode(proof));
        Ok((last, format!("v={}", STANDARD.encode(server.as_ref()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let password = Zeroizing::new("pencil".to_owned());
        Client::new(
            Mechanism::ScramSha256,
            "user",
            password,
            "rOprNGfwEbeRWgbNEkqO",
        )
        .unwrap()
    }

    #[test]
    fn the_example_of_rfc_7677_is_followed_to_the_letter() {
        let client = client();
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = client.answer(server).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_server_that_makes_no_sense_gets_no_answer() {
        for server in [
            "",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000",
        ] {
            assert!(client().answer(server).is_err(), "{server}");
        }
    }

    #[test]
    fn names_with_the_protocol_s_own_signs_are_escaped() {
        let password = Zeroizing::new(String::new());
        let client = Client::new(Mechanism::ScramSha512, "a=b,c", password, "n").unwrap();
        assert_eq!(client.first(), "n,,n=a=3Db=2Cc,r=n");
    }
}
