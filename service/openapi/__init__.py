"""The route table's rows, and the API's description that is made from them."""
