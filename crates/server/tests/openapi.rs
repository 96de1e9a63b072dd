//! The OpenAPI description is valid in the eyes of somebody else's validator.

use std::process::Command;

#[test]
fn it_validates() {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), sommelier_server::openapi().to_pretty_json().unwrap()).unwrap();
    // From PyPI: pip install openapi-spec-validator
    let program =
        std::env::var("OPENAPI_SPEC_VALIDATOR").unwrap_or_else(|_| "openapi-spec-validator".to_owned());
    match Command::new(program).arg(file.path()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
        Err(error) => println!("skipped, openapi-spec-validator is not installed: {error}"),
    }
}
