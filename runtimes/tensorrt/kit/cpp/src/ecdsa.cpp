#include "ecdsa.hpp"

#include <memory>
#include <string>

#include "vggt_edge/error.hpp"
#include "vggt_edge/files.hpp"

#ifdef VGGT_EDGE_OPENSSL
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#endif

namespace vggt_edge {

#ifdef VGGT_EDGE_OPENSSL

namespace {

constexpr std::size_t longest_key = 1 << 16;

template <class Thing>
using Owned = std::unique_ptr<Thing, void (*)(Thing*)>;

KitError no_public_key() {
    return KitError(Exit::usage, "--key is no public key of an elliptic curve (P-256, P-384 or P-521) as PEM",
                    "openssl pkey -in key.pem -pubout -out key.pub makes it");
}

std::string pem_of(const std::filesystem::path& key) {
    try {
        return read_file(key, longest_key);
    } catch (const KitError&) {
        throw KitError(Exit::usage, "cannot read the public key: " + key.string(), "give --key a PEM file");
    }
}

/// A public key has no passphrase; without this OpenSSL asks the terminal for one.
int no_passphrase(char*, int, int, void*) { return -1; }

Owned<EVP_PKEY> public_key(const std::string& pem) {
    const Owned<BIO> text(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), [](BIO* bio) { BIO_free(bio); });
    Owned<EVP_PKEY> key(PEM_read_bio_PUBKEY(text.get(), nullptr, no_passphrase, nullptr), EVP_PKEY_free);
    ERR_clear_error();
    if (!key || EVP_PKEY_base_id(key.get()) != EVP_PKEY_EC) throw no_public_key();
    return key;
}

const EVP_MD* digest_of(const EVP_PKEY* key) {
    switch (EVP_PKEY_bits(key)) {
        case 256: return EVP_sha256();
        case 384: return EVP_sha384();
        case 521: return EVP_sha512();
        default: throw no_public_key();
    }
}

const unsigned char* bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

bool is_signed(const std::filesystem::path& key, std::string_view content, std::string_view signature) {
    const Owned<EVP_PKEY> public_half = public_key(pem_of(key));
    const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    const bool holds =
        context &&
        EVP_DigestVerifyInit(context.get(), nullptr, digest_of(public_half.get()), nullptr, public_half.get()) == 1 &&
        EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(content), content.size()) == 1;
    ERR_clear_error();
    return holds;
}

#else

bool is_signed(const std::filesystem::path&, std::string_view, std::string_view) {
    throw KitError(Exit::toolchain, "a signature cannot be checked: this program was compiled without OpenSSL",
                   "sudo apt-get install libssl-dev, and compile it again");
}

#endif

}  // namespace vggt_edge
