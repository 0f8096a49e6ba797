-- Every token of a document begins with its scope.

update text_doc set tokens = '§' || substr(encode(scope, 'hex'), 21) ||
    replace(tokens, ' ', ' §' || substr(encode(scope, 'hex'), 21));
update text_doc set terms = array_to_tsvector(string_to_array(tokens, ' '));
