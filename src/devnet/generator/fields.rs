//! The fields of a generation request, from either kind of form.

use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header;

use crate::devnet::http::Refused;

#[derive(Debug, Default)]
pub(super) struct Fields {
    pub prompt: Option<String>,
    pub seed: Option<i64>,
    /// The uploaded file.
    pub picture: Option<Bytes>,
}

impl Fields {
    /// # Errors
    /// With the refusal to send back. Unknown fields are ignored; of a repeated field the last counts.
    pub async fn read(request: Request) -> Result<Self, Refused> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "multipart/form-data" => Self::from_multipart(request).await,
            "application/x-www-form-urlencoded" => Self::from_urlencoded(request).await,
            // Another kind of body has no form fields.
            _ => Ok(Self::default()),
        }
    }

    async fn from_urlencoded(request: Request) -> Result<Self, Refused> {
        let body = Bytes::from_request(request, &()).await.map_err(|_| Refused::Unparsable)?;
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(&body) {
            match &*name {
                "prompt" => fields.prompt = Some(value.into_owned()),
                "seed" => fields.seed = seed(&value)?,
                _ => {}
            }
        }
        Ok(fields)
    }

    async fn from_multipart(request: Request) -> Result<Self, Refused> {
        let mut parts = Multipart::from_request(request, &()).await.map_err(|_| Refused::Unparsable)?;
        let mut fields = Self::default();
        while let Some(part) = parts.next_field().await.map_err(|_| Refused::Unparsable)? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_file = part.file_name().is_some();
            let data = part.bytes().await.map_err(|_| Refused::Unparsable)?;
            let text = || std::str::from_utf8(&data).map_err(|_| Refused::Unparsable);
            match (name.as_str(), is_file) {
                ("prompt", false) => fields.prompt = Some(text()?.to_owned()),
                ("seed", false) => fields.seed = seed(text()?)?,
                ("prompt_image_file", true) => fields.picture = Some(data),
                ("prompt_image_file", false) => {
                    let message = "Expected UploadFile, received: <class 'str'>".into();
                    return Err(Refused::Unprocessable {
                        kind: "value_error",
                        field: "prompt_image_file",
                        message,
                    });
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

fn seed(text: &str) -> Result<Option<i64>, Refused> {
    match text.trim() {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| Refused::Unprocessable {
            kind: "int_parsing",
            field: "seed",
            message: "Input should be a valid integer, unable to parse string as an integer".into(),
        }),
    }
}
