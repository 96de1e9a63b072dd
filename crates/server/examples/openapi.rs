//! Prints the OpenAPI description of the API, for validators and client generators.

fn main() {
    println!("{}", sommelier_server::openapi().to_pretty_json().expect("a document of plain data"));
}
