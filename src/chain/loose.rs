//! Decoding through the metadata by field name, in one pass and forgiving about what is absent.
//!
//! scale-decode's derive walks every struct twice, once to find the fields and once to decode them,
//! and fails where a named field is gone. Here a struct is walked once, other fields are skipped, and
//! a field of type [`Loose`] may be missing.

use std::marker::PhantomData;

use subxt::ext::codec::{Compact, Decode};
use subxt::ext::scale_decode::error::ErrorKind;
use subxt::ext::scale_decode::visitor::{
    DecodeAsTypeResult, IgnoreVisitor, TypeIdFor, Visitor, decode_with_visitor, types::Composite,
};
use subxt::ext::scale_decode::{Error, IntoVisitor, TypeResolver};
use subxt::ext::scale_type_resolver::visitor as resolved;

/// An account, as its 32 bytes.
pub(super) type Account = [u8; 32];

/// A visitor for `T` that carries nothing.
pub(super) struct For<T, R>(PhantomData<(T, R)>);

impl<T, R> For<T, R> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

/// What a struct's field becomes when the runtime's struct has no field of that name.
pub(super) trait Absent: Sized {
    fn absent(name: &'static str) -> Result<Self, Error> {
        Err(Error::new(ErrorKind::CannotFindField { name: name.to_owned() }))
    }
}

impl Absent for u8 {}
impl Absent for u16 {}
impl Absent for u32 {}
impl Absent for u64 {}
impl Absent for u128 {}
impl Absent for Account {}

/// A value that may be absent: its field is gone, or it is an `Option` without a value. A plain value
/// and a filled `Option` read the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Loose<T>(pub(super) Option<T>);

impl<T> Absent for Loose<T> {
    fn absent(_: &'static str) -> Result<Self, Error> {
        Ok(Self(None))
    }
}

impl<T: IntoVisitor> IntoVisitor for Loose<T> {
    type AnyVisitor<R: TypeResolver> = For<Self, R>;
    fn into_visitor<R: TypeResolver>() -> For<Self, R> {
        For::new()
    }
}

impl<T: IntoVisitor, R: TypeResolver> Visitor for For<Loose<T>, R> {
    type Value<'scale, 'resolver> = Loose<T>;
    type Error = Error;
    type TypeResolver = R;

    fn unchecked_decode_as_type(
        self,
        input: &mut &[u8],
        type_id: TypeIdFor<Self>,
        types: &R,
    ) -> DecodeAsTypeResult<Self, Result<Loose<T>, Error>> {
        let is_enum = types
            .resolve_type(type_id.clone(), resolved::new((), |(), _| false).visit_variant(|(), _, _| true))
            .unwrap_or(false);
        let decoded = if is_enum {
            decode_with_visitor(input, type_id, types, Option::<T>::into_visitor::<R>())
        } else {
            decode_with_visitor(input, type_id, types, T::into_visitor::<R>()).map(Some)
        };
        DecodeAsTypeResult::Decoded(decoded.map(Loose))
    }
}

/// A vector of accounts, taken over whole instead of byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Accounts(pub(super) Vec<Account>);

impl IntoVisitor for Accounts {
    type AnyVisitor<R: TypeResolver> = For<Self, R>;
    fn into_visitor<R: TypeResolver>() -> For<Self, R> {
        For::new()
    }
}

impl<R: TypeResolver> Visitor for For<Accounts, R> {
    type Value<'scale, 'resolver> = Accounts;
    type Error = Error;
    type TypeResolver = R;

    fn unchecked_decode_as_type(
        self,
        input: &mut &[u8],
        type_id: TypeIdFor<Self>,
        types: &R,
    ) -> DecodeAsTypeResult<Self, Result<Accounts, Error>> {
        let accounts = match whole_accounts(input, type_id.clone(), types) {
            Some(accounts) => Ok(accounts),
            None => decode_with_visitor(input, type_id, types, Vec::<Account>::into_visitor::<R>()),
        };
        DecodeAsTypeResult::Decoded(accounts.map(Accounts))
    }
}

/// Nothing where the type is not shown to be a sequence of plain 32-byte accounts, or where bytes are
/// missing; the slow way then finds the words for it.
///
/// The first item decides: one that the metadata decodes from exactly 32 bytes to those same bytes
/// has no length, tag or other field, so all of its type are 32 bytes.
fn whole_accounts<R: TypeResolver>(input: &mut &[u8], type_id: R::TypeId, types: &R) -> Option<Vec<Account>> {
    let of_items = resolved::new((), |(), _| None).visit_sequence(|(), _, item| Some(item));
    let item = types.resolve_type(type_id, of_items).ok()??;
    let mut rest = *input;
    let count = usize::try_from(Compact::<u32>::decode(&mut rest).ok()?.0).ok()?;
    let (all, after) = rest.split_at_checked(count.checked_mul(size_of::<Account>())?)?;
    let (accounts, _) = all.as_chunks();
    let first = accounts.first()?;
    let mut undecoded = all;
    let decoded = decode_with_visitor(&mut undecoded, item, types, Account::into_visitor::<R>()).ok()?;
    if decoded != *first || all.len() - undecoded.len() != size_of::<Account>() {
        return None;
    }
    *input = after;
    Some(accounts.to_vec())
}

/// Skips the next field of a struct.
pub(super) fn skip<R: TypeResolver>(fields: &mut Composite<'_, '_, R>) -> Result<(), Error> {
    fields.decode_item(IgnoreVisitor::<R>::new()).transpose()?;
    Ok(())
}

/// A struct decoded by the names of its fields: those that are [`Absent`] by [`Loose`] may be missing.
macro_rules! by_name {
    ($(#[$meta:meta])* struct $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        struct $name { $($(#[$doc])* $field: $type,)* }

        impl subxt::ext::scale_decode::IntoVisitor for $name {
            type AnyVisitor<R: subxt::ext::scale_decode::TypeResolver> = $crate::chain::loose::For<Self, R>;
            fn into_visitor<R: subxt::ext::scale_decode::TypeResolver>() -> Self::AnyVisitor<R> {
                $crate::chain::loose::For::new()
            }
        }

        impl<R> subxt::ext::scale_decode::visitor::Visitor for $crate::chain::loose::For<$name, R>
        where
            R: subxt::ext::scale_decode::TypeResolver,
        {
            type Value<'scale, 'resolver> = $name;
            type Error = subxt::ext::scale_decode::Error;
            type TypeResolver = R;

            fn visit_composite<'scale, 'resolver>(
                self,
                fields: &mut subxt::ext::scale_decode::visitor::types::Composite<'scale, 'resolver, R>,
                _: R::TypeId,
            ) -> Result<$name, Self::Error> {
                use subxt::ext::scale_decode::IntoVisitor;
                $(let mut $field: Option<$type> = None;)*
                while fields.remaining() > 0 {
                    match fields.peek_name() {
                        $(Some(stringify!($field)) => {
                            let decoded = fields.decode_item(<$type>::into_visitor::<R>()).transpose();
                            $field = decoded.map_err(|error| error.at_field(stringify!($field)))?;
                        })*
                        _ => $crate::chain::loose::skip(fields)?,
                    }
                }
                Ok($name {
                    $($field: match $field {
                        Some(value) => value,
                        None => $crate::chain::loose::Absent::absent(stringify!($field))?,
                    },)*
                })
            }
        }
    };
}

pub(super) use by_name;
