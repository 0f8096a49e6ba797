//! Who may do what, for every operation of the document: without a credential, with
//! one that is none, has expired, was revoked, or is of the wrong role.
