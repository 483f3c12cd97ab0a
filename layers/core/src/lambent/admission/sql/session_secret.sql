SELECT secret FROM lambent.signing_secret WHERE name = 'pages'
