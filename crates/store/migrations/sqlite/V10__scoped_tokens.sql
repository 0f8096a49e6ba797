-- Every token of a document begins with its scope.

update text_doc set tokens = '§' || lower(substr(hex(scope), 21)) ||
    replace(tokens, ' ', ' §' || lower(substr(hex(scope), 21)));
insert into text_index (text_index) values ('delete-all');
insert into text_index (rowid, tokens) select doc, tokens from text_doc;
