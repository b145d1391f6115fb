//! The functions of routes: [`MakeHandler`] makes the handler of a connection, and [`AnswerRequest`] the response to a plain
//! request. Their arguments are extractors.

use std::any::TypeId;

use crate::handlers::handler::Handler;
use crate::routes::extract::FromRequest;
use crate::routes::request_context::{Opening, RequestContext};
use crate::routes::response::Response;
use crate::routes::states::Requirements;

/// The result of a function that makes handlers: a [`Handler`], or `Result<H, Response>` with the response that refuses
/// the request.
///
/// ```
/// use echoring::server::{Handler, Path, Response, Route};
///
/// struct Member(String);
///
/// impl Handler for Member {}
///
/// fn join(Path(room): Path<String>) -> Result<Member, Response> {
///     if room == "attic" { Err(Response::text(404, "no such room\n")) } else { Ok(Member(room)) }
/// }
///
/// let refuses_some = Route::new("/rooms/{room}", join);
/// let refuses_none = Route::new("/lobby", || Member("lobby".to_owned()));
/// # drop((refuses_some, refuses_none));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "the function of a route returns a type that implements `Handler`, or `Result<H, Response>`"
)]
pub trait IntoHandler {
    /// The handler, or the refusal.
    ///
    /// # Errors
    /// The response that refuses the request.
    fn into_handler(self) -> Result<Box<dyn Handler>, Response>;

    /// The type of the handler.
    fn handler() -> TypeId;
}

impl<H: Handler + 'static> IntoHandler for H {
    fn into_handler(self) -> Result<Box<dyn Handler>, Response> {
        Ok(Box::new(self))
    }

    fn handler() -> TypeId {
        TypeId::of::<H>()
    }
}

impl<H: Handler + 'static> IntoHandler for Result<H, Response> {
    fn into_handler(self) -> Result<Box<dyn Handler>, Response> {
        self.map(|handler| Box::new(handler) as Box<dyn Handler>)
    }

    fn handler() -> TypeId {
        TypeId::of::<H>()
    }
}

/// The result of a function that answers plain requests: a [`Response`], or `Result<Response, Response>` so that `?`
/// can be used.
///
/// ```
/// use echoring::server::{Path, Response, Server};
///
/// fn square(Path(number): Path<u32>) -> Result<Response, Response> {
///     let square = number.checked_mul(number).ok_or_else(|| Response::text(400, "too large\n"))?;
///     Ok(Response::text(200, square.to_string()))
/// }
///
/// let builder = Server::builder().get("/square/{number}", square).get("/hello", || Response::text(200, "hello\n"));
/// # drop(builder);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a response",
    note = "the function of a plain route returns `Response` or `Result<Response, Response>`"
)]
pub trait IntoResponse {
    /// The response.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for Result<Response, Response> {
    fn into_response(self) -> Response {
        self.unwrap_or_else(|refusal| refusal)
    }
}

/// A function that makes the handler of a connection. Implemented for functions of up to eight [extractors](FromRequest), which
/// may have `&mut Opening<'_>` before them, and that return [`IntoHandler`].
///
/// `Arguments` distinguishes the implementations; the compiler infers it. Closures must name the types of their
/// arguments.
///
/// ```
/// use echoring::server::{Handler, Opening, Path, Route};
///
/// struct Member {
///     room: String,
///     subprotocol: Option<String>,
/// }
///
/// impl Handler for Member {}
///
/// let route = Route::new("/rooms/{room}", |opening: &mut Opening<'_>, Path(room): Path<String>| Member {
///     room,
///     subprotocol: opening.subprotocol().map(str::to_owned),
/// });
/// # drop(route);
/// ```
#[diagnostic::on_unimplemented(
    message = "this function cannot make the handlers of a route",
    note = "it takes extractors, such as `Path(room): Path<String>`, behind an optional `opening: &mut Opening<'_>`, and returns a `Handler` or `Result<H, Response>`",
    note = "a closure must name the types of its arguments"
)]
pub trait MakeHandler<Arguments> {
    /// Runs the extractors in order, then the function.
    ///
    /// # Errors
    /// The response that refuses the request.
    fn make_handler(&self, opening: &mut Opening<'_>) -> Result<Box<dyn Handler>, Response>;

    /// The type of the handlers.
    fn handler(&self) -> TypeId;

    /// Names the states that the extractors need.
    fn requires(&self, required: &mut Requirements);
}

/// A function that answers plain requests. Implemented for functions of up to eight [extractors](FromRequest), which may have
/// `&RequestContext<'_>` before them, and that return [`IntoResponse`].
///
/// `Arguments` distinguishes the implementations; the compiler infers it. Closures must name the types of their
/// arguments.
///
/// ```
/// use echoring::server::{Path, RequestContext, Response, Server};
///
/// let builder = Server::builder().get("/hello/{name}", |request: &RequestContext<'_>, Path(name): Path<String>| {
///     Response::text(200, format!("hello, {name}, on {}\n", request.host))
/// });
/// # drop(builder);
/// ```
#[diagnostic::on_unimplemented(
    message = "this function cannot answer the requests of a route",
    note = "it takes extractors, such as `Path(name): Path<String>`, behind an optional `request: &RequestContext<'_>`, and returns a `Response` or `Result<Response, Response>`",
    note = "a closure must name the types of its arguments"
)]
pub trait AnswerRequest<Arguments> {
    /// Runs the extractors in order, then the function.
    fn answer(&self, request: &RequestContext<'_>) -> Response;

    /// Names the states that the extractors need.
    fn requires(&self, required: &mut Requirements);
}

/// The arguments of a function of extractors alone.
#[derive(Debug)]
pub struct Extractors<T>(T);

/// The arguments of a function that has the request before its extractors.
#[derive(Debug)]
pub struct RequestAnd<T>(T);

macro_rules! implement_for_functions {
    ($($argument:ident)*) => {
        #[allow(non_snake_case, unused_variables, reason = "one name for type and value; none without arguments")]
        impl<F, R, $($argument,)*> MakeHandler<Extractors<($($argument,)*)>> for F
        where
            F: Fn($($argument,)*) -> R,
            R: IntoHandler,
            $($argument: FromRequest,)*
        {
            fn make_handler(&self, opening: &mut Opening<'_>) -> Result<Box<dyn Handler>, Response> {
                $(let $argument = $argument::from_request(opening)?;)*
                self($($argument,)*).into_handler()
            }

            fn handler(&self) -> TypeId {
                R::handler()
            }

            fn requires(&self, required: &mut Requirements) {
                $($argument::requires(required);)*
            }
        }

        #[allow(non_snake_case, unused_variables, reason = "one name for type and value; none without arguments")]
        impl<F, R, $($argument,)*> MakeHandler<RequestAnd<($($argument,)*)>> for F
        where
            F: Fn(&mut Opening<'_>, $($argument,)*) -> R,
            R: IntoHandler,
            $($argument: FromRequest,)*
        {
            fn make_handler(&self, opening: &mut Opening<'_>) -> Result<Box<dyn Handler>, Response> {
                $(let $argument = $argument::from_request(opening)?;)*
                self(opening, $($argument,)*).into_handler()
            }

            fn handler(&self) -> TypeId {
                R::handler()
            }

            fn requires(&self, required: &mut Requirements) {
                $($argument::requires(required);)*
            }
        }

        #[allow(non_snake_case, unused_variables, reason = "one name for type and value; none without arguments")]
        impl<F, R, $($argument,)*> AnswerRequest<Extractors<($($argument,)*)>> for F
        where
            F: Fn($($argument,)*) -> R,
            R: IntoResponse,
            $($argument: FromRequest,)*
        {
            fn answer(&self, request: &RequestContext<'_>) -> Response {
                $(let $argument = match $argument::from_request(request) {
                    Ok(value) => value,
                    Err(refusal) => return refusal,
                };)*
                self($($argument,)*).into_response()
            }

            fn requires(&self, required: &mut Requirements) {
                $($argument::requires(required);)*
            }
        }

        #[allow(non_snake_case, unused_variables, reason = "one name for type and value; none without arguments")]
        impl<F, R, $($argument,)*> AnswerRequest<RequestAnd<($($argument,)*)>> for F
        where
            F: Fn(&RequestContext<'_>, $($argument,)*) -> R,
            R: IntoResponse,
            $($argument: FromRequest,)*
        {
            fn answer(&self, request: &RequestContext<'_>) -> Response {
                $(let $argument = match $argument::from_request(request) {
                    Ok(value) => value,
                    Err(refusal) => return refusal,
                };)*
                self(request, $($argument,)*).into_response()
            }

            fn requires(&self, required: &mut Requirements) {
                $($argument::requires(required);)*
            }
        }
    };
}

implement_for_functions!();
implement_for_functions!(A);
implement_for_functions!(A B);
implement_for_functions!(A B C);
implement_for_functions!(A B C D);
implement_for_functions!(A B C D E);
implement_for_functions!(A B C D E G);
implement_for_functions!(A B C D E G H);
implement_for_functions!(A B C D E G H I);
